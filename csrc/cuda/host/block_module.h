// The fused block in the Python module of the host build.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "cuda/host/block.h"

namespace deltaconv::cuda {

inline void bind_block(pybind11::module_& m) {
  namespace py = pybind11;
  py::class_<ProjectionPlan>(m, "ProjectionPlan")
      .def_readonly("tile_rows", &ProjectionPlan::tile_rows)
      .def_readonly("tile_cols", &ProjectionPlan::tile_cols)
      .def_readonly("row_tiles", &ProjectionPlan::row_tiles)
      .def_readonly("estimated_cycles", &ProjectionPlan::estimated_cycles)
      .def_property_readonly("blocks", [](const ProjectionPlan& plan) { return plan.grid.blocks; })
      .def_property_readonly("threads", [](const ProjectionPlan& plan) { return plan.grid.threads; })
      .def_property_readonly("shared_bytes", [](const ProjectionPlan& plan) { return plan.grid.shared_bytes; });

  py::class_<PlanarGrid>(m, "PlanarGrid")
      .def_property_readonly("factor", [](const PlanarGrid& grid) { return 1 << grid.factor_bits; })
      .def_readonly("offset", &PlanarGrid::offset)
      .def_property_readonly("lead", [](const PlanarGrid& grid) { return grid.planes.lead; })
      .def_property_readonly("pitch", [](const PlanarGrid& grid) { return grid.planes.pitch; });

  py::class_<FusedBlockPlan>(m, "BlockPlan")
      .def_readonly("into", &FusedBlockPlan::in)
      .def_readonly("pyramid", &FusedBlockPlan::pyramid)
      .def_readonly("out", &FusedBlockPlan::out)
      .def_property_readonly("grids",
                             [](const FusedBlockPlan& plan) {
                               const PlanarGrid* first = plan.planes.at;
                               return std::vector<PlanarGrid>(first, first + plan.planes.count);
                             })
      .def_property_readonly("rectangle",
                             [](const FusedBlockPlan& plan) {
                               const int32_t bits = plan.planes.width_bits;
                               return std::pair(plan.in.tile_rows >> bits, 1 << bits);
                             })
      .def_readonly("hidden", &FusedBlockPlan::hidden)
      .def_readonly("sums", &FusedBlockPlan::sums)
      .def_readonly("shifts", &FusedBlockPlan::shifts)
      .def_readonly("shift_slices", &FusedBlockPlan::shift_slices)
      .def_property_readonly("launches", &FusedBlockPlan::launches);

  py::class_<HostFusedBlockTensors>(m, "BlockTensors")
      .def(py::init<uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t,
                    uintptr_t, uintptr_t, uintptr_t>(),
           py::kw_only(), py::arg("x"), py::arg("residual"), py::arg("in_weight"), py::arg("in_bias"),
           py::arg("out_weight"), py::arg("out_bias"), py::arg("pool_weight"), py::arg("pool_bias"), py::arg("hidden"),
           py::arg("local"), py::arg("result"), py::arg("workspace"));

  m.def(
      "block_plan",
      [](const PlanProblem& pyramid, int64_t dim, const DeviceProperties& device) {
        return fused_block_plan({pyramid, dim}, device);
      },
      py::arg("pyramid"), py::arg("dim"), py::arg("device"));
  m.def("explain", py::overload_cast<const FusedBlockPlan&>(&explain), py::arg("plan"));
  m.def("block", &run_block, py::arg("pyramid"), py::arg("dim"), py::arg("tensors"),
        py::call_guard<py::gil_scoped_release>());
}

}  // namespace deltaconv::cuda
