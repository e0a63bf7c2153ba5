// What a CTA on tensor cores does, phase by phase.
#pragma once

#include <cmath>

#include "cuda/layout/adjoint_tile.h"
#include "cuda/plan/work.h"

namespace deltaconv::cuda::tensor_cores {

// A CTA of one stage.
template <class Banded>
class CtaWork {
 public:
  CtaWork(const PlanProblem& problem, const Stage& stage, int32_t threads)
      : K_(static_cast<double>(problem.sizes.K)), warps_(threads / kWarp), stage_(stage) {}

  // The forward loads, multiplies, gates and stores. CTAs of kBandedThreads load the half of v while they multiply u.
  WorkPhases forward() const {
    WorkPhases phases{first_load(), {}, {}, forward_store()};
    const WorkPhase gate = WorkPhase().add(kGatedValue, kBandedPairs * values());
    if (warps_ == kBandedPairs) {
      phases[1] = load_half() + convolution(kBandedPairs);
      phases[2] = convolution(kBandedPairs) + gate;
    } else {
      phases[0] = phases[0] + load_half();
      phases[1] = convolution(2 * kBandedPairs) + gate;
    }
    return phases;
  }

  // The forward of a fused block copies windows of channel planes, which reduced stages have of their own grid.
  WorkPhases planar_forward() const {
    WorkPhase load = filters();
    load.add(kCopy, 2 * kBandedPairs * std::ceil((Banded::kRows + K_ - 1) / Banded::kCopiedRows));
    load.bytes += 2 * 2 * kBandedPairs * window_values();
    load.asynchronous = true;
    const WorkPhase gate = WorkPhase().add(kGatedValue, kBandedPairs * values());
    return {load, convolution(2 * kBandedPairs) + gate, {}, forward_store()};
  }

  // Through the gate: as the forward, then the result's gradient; in reduced stages it reads each pixel's gradient for
  // all four neighbours in the grid. It writes planes of gradients and of inputs.
  WorkPhases gate() const {
    const double items = results() * kVectors / kWarp;
    const double taps = stage_.rows.factor == 1 ? 0 : 4 * window();
    WorkPhase gradients{{}, 0, 2 * kBandedPairs * results() * std::max(taps, 1.0), 1};
    gradients.add(kGradient, items).add(kGradientTap, items * taps);
    WorkPhase store{{}, 0, 2 * 4 * kBandedPairs * results(), 0};
    store.add(kGatedValue, kBandedPairs * values()).add(kPlaneValue, 2 * kBandedPairs * values());
    store.add(kKeptInputs, 2 * kBandedPairs * Banded::kRows * (Banded::kFragments + 1.0) / kWarp);
    return {first_load(), load_half() + convolution(kBandedPairs), convolution(kBandedPairs), gradients + store};
  }

  // A flipped convolution reads planes of gradients and the values that it adds.
  WorkPhases adjoint(const AdjointResults& written) const {
    WorkPhases phases;
    WorkPhase& load = phases[0];
    load.add(kAdjointWarp, warps_);
    if (stage_.index >= 0) {
      load.add(kCopy, kAdjointChannels * std::ceil((Banded::kRows + K_ - 1) / Banded::kCopiedRows));
      load.add(kFlippedTap, std::ceil(K_ / 2) * 8 * std::ceil((K_ + 1) / 8));
      load.bytes = 2 * kAdjointChannels * (window_values() + K_ * K_);
      load.waits = 1;
      phases[1] = convolution(kAdjointChannels);
      phases[1].add(kSum, kAdjointChannels * values());
    }
    const double items = results() * kAdjointChannels / 8 / kWarp;
    phases[2].add(kSumStored, items).add(kSumAdded, items * written.added);
    phases[2].bytes = kAdjointChannels * results() * (written.bytes + 4 * written.added);
    phases[2].waits = 1;
    return phases;
  }

 private:
  static constexpr double kVectors = kBandedPairs / 8.0;  // groups of 8 channel pairs

  double window() const { return static_cast<double>(stage_.rows.factor) * stage_.cols.factor; }
  // The part of the tile's window, and of its results, that lies in the grid.
  double window_values() const {
    return std::min(Banded::kRows + K_ - 1, static_cast<double>(stage_.rows.reduced)) *
           std::min(Banded::kCols + K_ - 1, static_cast<double>(stage_.cols.reduced));
  }
  double results() const {
    return static_cast<double>(std::min(Banded::kRows, stage_.rows.reduced)) *
           std::min(Banded::kCols, stage_.cols.reduced);
  }
  // Pixels along an axis that the tile's results are upsampled to.
  double upsampled(const Axis& axis, int32_t step) const {
    return std::min(static_cast<double>(axis.size), static_cast<double>(step) * axis.factor);
  }
  double pixels_written() const {
    if (stage_.rows.factor == 1) return results();
    return upsampled(stage_.rows, stage_.tiling.step_rows) * upsampled(stage_.cols, stage_.tiling.step_cols);
  }
  // Upsampling cells along an axis that a tile owns.
  double owned_cells(const Axis& axis, int32_t count, int32_t step) const {
    return count == 1 ? axis.reduced + 1 : step;
  }
  double values() const { return 4.0 * Banded::kStep * Banded::kFragments; }  // a lane's, for a channel

  WorkPhase load_half() const {
    WorkPhase phase{{}, 0, 2 * kBandedPairs * window_values() * window(), 0};
    const double pairs = (Banded::kRows + K_ - 1) * Banded::kLoads * 4 * kVectors / kWarp;
    if (stage_.rows.factor == 1) {
      phase.add(kPixelPair, pairs);
    } else if (stage_.rows.size == 2 * stage_.rows.reduced && stage_.cols.size == 2 * stage_.cols.reduced) {
      phase.add(kHalvedPair, pairs);
    } else {
      const double steps = stage_.rows.factor * std::ceil(stage_.cols.factor / 2.0);
      phase.add(kPooledPair, pairs);
      phase.add(kWindowStep, window_values() / 2 * kVectors / kWarp * steps);
    }
    return phase;
  }
  WorkPhase filters() const {
    WorkPhase phase{{}, 0, 2 * 2 * kBandedPairs * K_ * K_, 1};
    return phase.add(kWarpStart, warps_).add(kFilterTap, K_ * (8 * Banded::kBand - 7));
  }
  // The half of u and the filters.
  WorkPhase first_load() const { return filters() + load_half(); }
  WorkPhase forward_store() const {
    WorkPhase store{{}, 0, 2 * kBandedPairs * pixels_written(), 1};
    if (stage_.rows.factor == 1) return store.add(kStored, results() * kVectors / kWarp);
    // A thread takes two columns of pixels of a cell, for a run of cells.
    const double cells = owned_cells(stage_.rows, stage_.tiling.count_rows, stage_.tiling.step_rows);
    const double pairs = owned_cells(stage_.cols, stage_.tiling.count_cols, stage_.tiling.step_cols) *
                         std::ceil(stage_.cols.factor / 2.0) * kVectors;
    const double runs = std::clamp(std::floor(warps_ * kWarp / pairs), 1.0, cells);
    store.add(kUpsampled, pixels_written() * kVectors / kWarp);
    return store.add(kUpsampledRun, pairs / kWarp * runs).add(kGridPixel, pairs / kWarp * (cells + runs));
  }
  WorkPhase convolution(double channels) const {
    const double steps = channels * (K_ + 1) / 2, products = Banded::kBand * Banded::kFragments * Banded::kStep;
    WorkPhase phase{{}, channels * K_ / 2 * products, 0, 0};
    phase.add(kChannel, channels).add(kKernelRows, steps).add(kBandWord, steps * 2 * Banded::kBand);
    phase.add(kFragment, steps * Banded::kLoads).add(kProduct, steps * products);
    return phase;
  }

  double K_, warps_;
  const Stage& stage_;
};

}  // namespace deltaconv::cuda::tensor_cores
