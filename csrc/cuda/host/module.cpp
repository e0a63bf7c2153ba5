// The host build of the CUDA kernels as a Python module, for tests alone.
#include <cxxabi.h>
#include <pybind11/functional.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <memory>
#include <optional>

#include "cuda/device/device.h"
#include "cuda/frame/tile.h"
#include "cuda/host/block_module.h"
#include "cuda/host/fragments.h"
#include "cuda/host/run.h"
#include "cuda/host/work.h"
#include "cuda/plan/remembered.h"

namespace py = pybind11;
using namespace deltaconv;
using namespace deltaconv::cuda;

namespace {

// The tilings of all stages, in the order of Stage::index.
std::vector<Tiling> tilings_of(const Stages& stages) {
  std::map<int32_t, Tiling> tilings;
  for (int32_t s = 0; s < stages.count; ++s) tilings[stages.at[s].index] = stages.at[s].tiling;
  std::vector<Tiling> in_order;
  for (const auto& [index, tiling] : tilings) in_order.push_back(tiling);
  return in_order;
}

// Cycles of a CTA, alone and busy, by Stage::index.
std::map<int32_t, std::pair<double, double>> cycles_of(const LaunchPlan& plan) {
  std::map<int32_t, std::pair<double, double>> cycles;
  for (int32_t s = 0; s < plan.stages.count; ++s) {
    cycles[plan.stages.at[s].index] = {plan.cycles[s].alone, plan.cycles[s].busy};
  }
  return cycles;
}

std::string demangled(const char* name) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> text(abi::__cxa_demangle(name, nullptr, nullptr, &status),
                                                         &std::free);
  return status == 0 ? text.get() : name;
}

// Called with a source file, a kernel's type, its arguments' type, blocks, threads, shared bytes, whether it follows
// another launch that may still run, and the arguments' bytes.
using Launcher = std::function<void(std::string, std::string, std::string, int64_t, int, int64_t, bool, py::bytes)>;

void set_launcher(const std::optional<Launcher>& python) {
  host::launcher = nullptr;
  if (!python) return;
  host::launcher = [python](const host::LaunchRequest& request) {
    py::gil_scoped_acquire acquired;
    (*python)(request.source, demangled(request.kernel), demangled(request.arguments_type), request.grid.blocks,
              request.grid.threads, request.grid.shared_bytes, request.follows,
              py::bytes(static_cast<const char*>(request.arguments), request.argument_bytes));
  };
}

}  // namespace

PYBIND11_MODULE(deltaconv_cuda_host, m) {
  py::enum_<ElementType>(m, "ElementType")
      .value("float32", ElementType::kFloat32)
      .value("float16", ElementType::kFloat16)
      .value("bfloat16", ElementType::kBFloat16);

  py::enum_<Path>(m, "Path").value("cuda_cores", Path::kCudaCores).value("tensor_cores", Path::kTensorCores);

  py::class_<DeviceProperties>(m, "DeviceProperties")
      .def(py::init<int32_t, int32_t, int64_t, int64_t>(), py::arg("compute_capability"), py::arg("multiprocessors"),
           py::arg("shared_per_block"), py::arg("shared_per_multiprocessor"))
      .def_readonly("shared_per_block", &DeviceProperties::shared_per_block);

  py::class_<PlanProblem>(m, "PlanProblem")
      .def(
          py::init([](const std::array<int64_t, 6>& sizes, std::vector<int64_t> factors, ElementType type,
                      std::optional<Path> path, std::optional<int32_t> weight_columns,
                      const std::optional<std::array<int32_t, 3>>& cta,
                      const std::optional<std::array<int32_t, 2>>& reduced_tile) {
            std::optional<CtaChoice> chosen;
            if (cta) {
              const auto [rows, cols, threads] = *cta;
              const auto [reduced_rows, reduced_cols] = reduced_tile.value_or(std::array{rows, cols});
              chosen = {rows, cols, threads, reduced_rows, reduced_cols};
            }
            return PlanProblem{{sizes[0], sizes[1], sizes[2], sizes[3], sizes[4], sizes[5]},
                               std::move(factors),
                               type,
                               path,
                               weight_columns,
                               chosen};
          }),
          py::arg("sizes"), py::arg("factors"), py::arg("type"), py::arg("path") = std::nullopt,
          py::arg("weight_columns") = std::nullopt, py::arg("cta") = std::nullopt,
          py::arg("reduced_tile") = std::nullopt,
          "Sizes are B, H, W, C, S, K; cta is rows, columns and threads; reduced_tile is rows and columns of the tiles "
          "of reduced stages in the launch through the gate, those of cta without it.");

  py::class_<HostImage>(m, "Image")
      .def(py::init<uintptr_t, int64_t, int64_t, int64_t>(), py::arg("address") = 0, py::arg("batch_stride") = 0,
           py::arg("row_stride") = 0, py::arg("col_stride") = 0);

  py::class_<HostProblem>(m, "Problem")
      .def(py::init<PlanProblem, DeviceProperties, int, double, HostImage, uintptr_t, uintptr_t>(), py::arg("plan"),
           py::arg("device"), py::arg("gate"), py::arg("gate_scale"), py::arg("x"), py::arg("weight"), py::arg("bias"));

  py::class_<Tiling>(m, "Tiling")
      .def_readonly("rows", &Tiling::rows)
      .def_readonly("cols", &Tiling::cols)
      .def_readonly("step_rows", &Tiling::step_rows)
      .def_readonly("step_cols", &Tiling::step_cols)
      .def_readonly("count_rows", &Tiling::count_rows)
      .def_readonly("count_cols", &Tiling::count_cols)
      .def_readonly("band_rows", &Tiling::band_rows);

  py::class_<LaunchPlan>(m, "LaunchPlan")
      .def_property_readonly("tensor_cores", [](const LaunchPlan& plan) { return plan.path == Path::kTensorCores; })
      .def_property_readonly("blocks", [](const LaunchPlan& plan) { return plan.grid.blocks; })
      .def_property_readonly("threads", [](const LaunchPlan& plan) { return plan.grid.threads; })
      .def_property_readonly("shared_bytes", [](const LaunchPlan& plan) { return plan.grid.shared_bytes; })
      .def_readonly("estimated_cycles", &LaunchPlan::estimated_cycles)
      .def_readonly("resident", &LaunchPlan::resident)
      .def_property_readonly("cycles", &cycles_of)
      .def_property_readonly("tilings", [](const LaunchPlan& plan) { return tilings_of(plan.stages); });

  py::class_<BackwardPlan>(m, "BackwardPlan")
      .def_readonly("gate", &BackwardPlan::gate)
      .def_readonly("reduced", &BackwardPlan::reduced)
      .def_readonly("input", &BackwardPlan::input)
      .def_property_readonly("weight_shared_bytes",
                             [](const BackwardPlan& plan) { return plan.weight.grid.shared_bytes; })
      .def_property_readonly("weight_threads", [](const BackwardPlan& plan) { return plan.weight.grid.threads; })
      .def_property_readonly("weight_tilings", [](const BackwardPlan& plan) { return tilings_of(plan.weight.stages); })
      .def_property_readonly("partitions", [](const BackwardPlan& plan) { return plan.weight.partitions; })
      .def_property_readonly("workspace_floats", [](const BackwardPlan& plan) { return plan.workspace.size; });

  py::class_<HostGradients>(m, "Gradients")
      .def(py::init<uintptr_t, uintptr_t, uintptr_t, uintptr_t>(), py::arg("x"), py::arg("weight"), py::arg("bias"),
           py::arg("workspace"));

  m.def("launch_work", &launch_work, py::arg("problem"), py::arg("plan"), py::arg("launch"),
        "Counts of work of a CTA of each stage; the launch is forward, a block's pyramid, gate, reduced or input.");

  m.def("backward_plan", &backward_plan, py::arg("problem"), py::arg("device"));
  m.def("backward", &run_backward, py::arg("problem"), py::arg("grad"), py::arg("gradients"),
        py::call_guard<py::gil_scoped_release>());

  m.def(
      "tensor_cores_take",
      [](const PlanProblem& problem, const DeviceProperties& device) {
        return tensor_cores::forward_launch(problem, device, 0, 1).has_value();
      },
      py::arg("problem"), py::arg("device"));
  m.def("forward_plan", &forward_plan, py::arg("problem"), py::arg("device"));
  m.def("remembered_forward_plan", &remembered_forward_plan, py::arg("problem"), py::arg("device"),
        py::return_value_policy::copy);
  m.def("remembered_backward_plan", &remembered_backward_plan, py::arg("problem"), py::arg("device"),
        py::return_value_policy::copy);
  m.def("explain", py::overload_cast<const std::vector<LaunchPlan>&>(&explain), py::arg("launches"));
  m.def("explain", py::overload_cast<const BackwardPlan&>(&explain), py::arg("plan"));
  m.def("forward", &run_forward, py::arg("problem"), py::arg("residual"), py::arg("result"),
        py::call_guard<py::gil_scoped_release>());

  m.def(
      "located_tiles",
      [](const LaunchPlan& plan) {
        std::vector<std::array<int64_t, 6>> tiles;
        for (host::block.index = 0; host::block.index < plan.grid.blocks; ++host::block.index) {
          const Tile tile = locate_tile(plan.stages);
          if (!tile.exists) continue;
          const int32_t stage = plan.stages.at[tile.stage].index;
          tiles.push_back({stage, tile.image, tile.index_row, tile.index_col, tile.channel, host::block.index});
        }
        return tiles;
      },
      py::arg("plan"),
      "Of each block that has a tile: stage, image, row, column, first channel, and the block's index.");

  m.def("set_block_order", [](bool descending) { host::options.descending = descending; }, py::arg("descending"));
  m.def("set_launcher", &set_launcher, py::arg("launcher"),
        "Every launch goes to a function of source file, kernel, arguments' type, blocks, threads, shared bytes and "
        "arguments instead; None: back to this build.");
  m.def("demangled", [](const std::string& name) { return demangled(name.c_str()); }, py::arg("name"));
  m.def("launches", [] { return host::statistics.barriers.size(); }, "How many kernels this process has launched.");

  bind_block(m);

  m.def("multiply_fragments", &multiply_fragments, py::arg("type"), py::arg("a"), py::arg("b"), py::arg("addend"),
        py::arg("result"), py::arg("columns"), py::arg("transposed"));

  m.def(
      "roundings",
      [](float value) {
        return std::make_pair(to_float(from_float<Half>(value)), to_float(from_float<BFloat16>(value)));
      },
      py::arg("value"), "The value rounded to float16 and to bfloat16.");
}
