# What both builds of the CUDA backend compile, for the GPU by nvcc and for the host by the C++ compiler.
set(DELTACONV_CUDA_KERNELS forward_float32.cu forward_float16.cu forward_bfloat16.cu
    backward_float32.cu backward_float16.cu backward_bfloat16.cu
    forward_banded_float16.cu forward_banded_bfloat16.cu
    backward_banded_float16.cu backward_banded_bfloat16.cu
    backward_weight_banded_float16.cu backward_weight_banded_bfloat16.cu
    block_float16.cu block_bfloat16.cu)
set(DELTACONV_CUDA_PLAN plan.cpp plan_backward.cpp plan_backward_tensor_cores.cpp plan_cuda_cores.cpp plan_tensor_cores.cpp
    plan_weight_banded.cpp plan_block.cpp)
