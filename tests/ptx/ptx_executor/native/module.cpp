// The Python module: programs, memory, launches.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "machine.h"

namespace py = pybind11;
using namespace ptx;

namespace {

using Operands = std::vector<std::tuple<int, uint64_t, int64_t>>;
using Tuple = std::tuple<std::string, Operands, int, bool, int, int>;

DecodedInstruction decoded(const Tuple& tuple) {
  const auto& [opcode, operands, guard, negated, target, reconvergence] = tuple;
  DecodedInstruction instruction{opcode, {}, guard, negated, target, reconvergence};
  for (const auto& [kind, value, offset] : operands) instruction.operands.push_back({kind, value, offset});
  return instruction;
}

Program program_of(const std::vector<int>& widths, const std::vector<Tuple>& tuples) {
  std::vector<DecodedInstruction> instructions;
  for (const Tuple& tuple : tuples) instructions.push_back(decoded(tuple));
  return Program(widths, instructions);
}

py::array_t<uint64_t> column(const Outcome& outcome, uint64_t Traffic::* member) {
  py::array_t<uint64_t> values(static_cast<py::ssize_t>(outcome.traffic.size()));
  for (size_t i = 0; i < outcome.traffic.size(); ++i) values.mutable_data()[i] = outcome.traffic[i].*member;
  return values;
}

}  // namespace

PYBIND11_MODULE(ptx_interpreter, m) {
  static py::handle unknown = py::exception<UnknownInstruction>(m, "UnknownInstruction").release();
  py::register_exception_translator([](std::exception_ptr pointer) {
    try {
      if (pointer) std::rethrow_exception(pointer);
    } catch (const UnknownInstruction& error) {
      PyErr_SetObject(unknown.ptr(), py::make_tuple(error.what, error.at).ptr());
    }
  });

  py::class_<Program>(m, "Program")
      .def(py::init(&program_of), py::arg("widths"), py::arg("instructions"),
           "Instructions are (opcode, operands, guard, negated, target, reconvergence).");

  py::class_<Memory>(m, "Memory")
      .def(py::init<>())
      .def(
          "allocate",
          [](Memory& memory, const std::string& name, uintptr_t data, int64_t bytes, uint64_t skew, bool writable,
             bool initialised, const std::vector<uint8_t>& present) {
            return memory.allocate(
                {name, reinterpret_cast<std::byte*>(data), bytes, skew, writable, initialised, present, nullptr});
          },
          py::arg("name"), py::arg("data"), py::arg("bytes"), py::arg("skew"), py::arg("writable"),
          py::arg("initialised"), py::arg("present"));

  py::class_<Launch>(m, "Launch")
      .def(py::init([](std::array<uint32_t, 3> grid, std::array<uint32_t, 3> block, const py::bytes& parameters,
                       int64_t shared_bytes, uint32_t order, std::vector<int64_t> only_blocks, bool follows,
                       std::vector<std::pair<std::string, int>> special) {
             return Launch{grid,
                           block,
                           std::string(parameters),
                           shared_bytes,
                           order,
                           std::move(only_blocks),
                           follows,
                           std::move(special)};
           }),
           py::arg("grid"), py::arg("block"), py::arg("parameters"), py::arg("shared_bytes"), py::arg("order"),
           py::arg("only_blocks"), py::arg("follows"), py::arg("special"));

  py::class_<Failure>(m, "Failure")
      .def_readonly("what", &Failure::what)
      .def_readonly("instruction", &Failure::instruction)
      .def_readonly("block", &Failure::block)
      .def_readonly("warp", &Failure::warp)
      .def_readonly("lane", &Failure::lane);

  py::class_<Outcome>(m, "Outcome")
      .def_readonly("failure", &Outcome::failure)
      .def_readonly("blocks", &Outcome::blocks)
      .def_property_readonly("issued", [](const Outcome& o) { return column(o, &Traffic::issued); })
      .def_property_readonly("lanes", [](const Outcome& o) { return column(o, &Traffic::lanes); })
      .def_property_readonly("wavefronts", [](const Outcome& o) { return column(o, &Traffic::wavefronts); })
      .def_property_readonly("conflicts", [](const Outcome& o) { return column(o, &Traffic::conflicts); })
      .def_property_readonly("sectors", [](const Outcome& o) { return column(o, &Traffic::sectors); })
      .def_property_readonly("bytes", [](const Outcome& o) { return column(o, &Traffic::bytes); });

  m.def(
      "run",
      [](const Program& program, Memory& memory, const Launch& launch) {
        return Machine(program, memory, launch).run();
      },
      py::arg("program"), py::arg("memory"), py::arg("launch"), py::call_guard<py::gil_scoped_release>());
}
