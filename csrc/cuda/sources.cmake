# What the builds of csrc/cuda share: the sources of the plan, and one library for each storage type of the kernels.
set(DELTACONV_CUDA_PLAN plan/plan.cpp plan/schedule.cpp plan/work.cpp plan/backward.cpp plan/cuda_cores.cpp
    plan/cuda_cores_cost.cpp plan/cuda_cores_weight.cpp plan/tensor_cores.cpp plan/tensor_cores_weight.cpp
    plan/fused_block.cpp plan/remembered.cpp)
set(DELTACONV_CUDA_CORES cuda_cores/forward.cu cuda_cores/backward.cu)  # for float, Half and BFloat16
set(DELTACONV_TENSOR_CORES tensor_cores/forward.cu tensor_cores/planar_forward.cu tensor_cores/backward.cu
    tensor_cores/weight/weight.cu fused_block/fused_block.cu)  # for Half and BFloat16

# Compiles the kernels once for each storage type, which DELTACONV_STORAGE names, in the given language and with the
# usage requirements of `options`; the objects become part of `target`.
function(deltaconv_add_cuda_kernels target language options)
  foreach(type float Half BFloat16)
    set(sources ${DELTACONV_CUDA_CORES})
    if(NOT type STREQUAL "float")
      list(APPEND sources ${DELTACONV_TENSOR_CORES})
    endif()
    list(TRANSFORM sources PREPEND ${CMAKE_CURRENT_FUNCTION_LIST_DIR}/)
    set_source_files_properties(${sources} PROPERTIES LANGUAGE ${language})
    add_library(${target}_${type} OBJECT ${sources})
    target_compile_definitions(${target}_${type} PRIVATE DELTACONV_STORAGE=${type})
    target_link_libraries(${target}_${type} PRIVATE ${options})
    target_sources(${target} PRIVATE $<TARGET_OBJECTS:${target}_${type}>)
  endforeach()
endfunction()
