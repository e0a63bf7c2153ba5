#include "cuda/plan/cuda_cores_cost.h"

#include <algorithm>
#include <cmath>

#include "cuda/layout/register_tile.h"

namespace deltaconv::cuda::cuda_cores {
namespace {

double divide_up(double count, double by) { return std::ceil(count / by); }

// Loads of inputs and filters, for all bands of input rows.
WorkPhase load_work(const PlanProblem& problem, const Stage& stage) {
  const Tiling& tiling = stage.tiling;
  const double element = problem.type == ElementType::kFloat32 ? 4 : 2, K = static_cast<double>(problem.sizes.K);
  const double values = 16 / element, quads = kLanes / values / kWarp, window = stage.rows.factor * stage.cols.factor;
  const double pixels = (tiling.rows + K - 1) * (tiling.cols + K - 1);
  const double inside = std::min(tiling.rows + K - 1, static_cast<double>(stage.rows.reduced)) *
                        std::min(tiling.cols + K - 1, static_cast<double>(stage.cols.reduced));
  const double bands = divide_up(tiling.rows + K - 1, tiling.band_rows);
  const Work direct = problem.type == ElementType::kFloat32 ? kCopiedQuad : kWidenedQuad;
  WorkPhase load{{}, 0, kLanes * element * (inside * window + K * K), bands};
  load.add(direct, K * K * quads);
  if (stage.rows.factor == 1) return load.add(direct, pixels * quads);
  const double steps = divide_up(stage.rows.factor, 2) * divide_up(stage.cols.factor, 2);
  load.add(problem.type == ElementType::kFloat32 ? kPooledQuad : kPooledEight, pixels * quads);
  return load.add(kWindowValues, inside * quads * steps);
}

// The convolution reads a row of inputs once for the kernel rows that it meets, and a weight for kTileW results: all
// kernel columns at a time where K is a compile-time constant, else four, then one by one.
WorkPhase convolution_work(const PlanProblem& problem, const Stage& stage) {
  const auto K = static_cast<double>(problem.sizes.K);
  // Warps whose register tile lies outside the grid skip it.
  const double warps = divide_up(std::min(stage.tiling.rows, stage.rows.reduced), kTileH) *
                       divide_up(std::min(stage.tiling.cols, stage.cols.reduced), kTileW);
  const double fours = std::floor(K / 4), ones = K - 4 * fours, rows = kTileH + K - 1, met = kTileH * K;
  const bool whole = is_unrolled(problem.sizes.K);
  const double inputs = whole ? kTileW + K - 1 : fours * (kTileW + 3) + ones * kTileW;
  WorkPhase phase;
  phase.add(kRowMet, warps * met * (whole ? 1 : fours + ones));
  phase.add(kRead, warps * (rows * inputs + met * K));
  phase.add(kMultiplyAdd, warps * met * K * kTileW);
  return phase;
}

WorkPhase store_work(const PlanProblem& problem, const Stage& stage, bool upsampled) {
  const Tiling& tiling = stage.tiling;
  const double warps = static_cast<double>(tiling.rows) / kTileH * tiling.cols / kTileW;
  const double element = problem.type == ElementType::kFloat32 ? 4 : 2;
  const double results =
      static_cast<double>(std::min(tiling.rows, stage.rows.reduced)) * std::min(tiling.cols, stage.cols.reduced);
  WorkPhase store{{}, 0, kPairs * element * results, 1};
  if (!upsampled || stage.rows.factor == 1) return store.add(kStoringWarp, warps);
  const double rows = std::min(stage.rows.size, tiling.step_rows * stage.rows.factor);
  const double cols = std::min(stage.cols.size, tiling.step_cols * stage.cols.factor);
  // A thread takes two columns of pixels of an upsampling cell, for a run of cells.
  const double cells = tiling.count_rows == 1 ? stage.rows.reduced + 1 : tiling.step_rows;
  const double across = tiling.count_cols == 1 ? stage.cols.reduced + 1 : tiling.step_cols;
  const double pairs = across * divide_up(stage.cols.factor, 2) * kPairs * element / 16;
  const double runs = std::clamp(std::floor(warps * kWarp / pairs), 1.0, cells);
  store.bytes = kPairs * element * rows * cols;
  store.add(kParkingWarp, warps).add(kInterpolated, cols * rows * kPairs * element / 16 / kWarp);
  return store.add(kInterpolatedGrid, pairs * 16 / element / 4 / kWarp * (cells + runs));
}

}  // namespace

WorkPhases cta_work(const PlanProblem& problem, const Stage& stage, bool upsampled) {
  return {load_work(problem, stage), convolution_work(problem, stage), store_work(problem, stage, upsampled),
          WorkPhase()};
}

}  // namespace deltaconv::cuda::cuda_cores
