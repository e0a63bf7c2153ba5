# What both builds of the CUDA backend compile, for the GPU by nvcc and for the host by the C++ compiler.
set(DELTACONV_CUDA_KERNELS cuda_cores/forward_float32.cu cuda_cores/forward_float16.cu cuda_cores/forward_bfloat16.cu
    cuda_cores/backward_float32.cu cuda_cores/backward_float16.cu cuda_cores/backward_bfloat16.cu
    tensor_cores/forward_float16.cu tensor_cores/forward_bfloat16.cu
    tensor_cores/backward_float16.cu tensor_cores/backward_bfloat16.cu
    tensor_cores/weight/float16.cu tensor_cores/weight/bfloat16.cu
    fused_block/float16.cu fused_block/bfloat16.cu)
set(DELTACONV_CUDA_PLAN plan/plan.cpp plan/backward.cpp plan/backward_tensor_cores.cpp plan/cuda_cores.cpp
    plan/tensor_cores.cpp plan/weight_tensor_cores.cpp plan/fused_block.cpp)
