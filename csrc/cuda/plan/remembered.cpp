#include "cuda/plan/remembered.h"

#include <tuple>
#include <utility>

namespace deltaconv::cuda {
namespace {

constexpr size_t kMostPlans = 64;  // for each function and thread; then the oldest is forgotten

auto fields(const Sizes& sizes) { return std::tie(sizes.B, sizes.H, sizes.W, sizes.C, sizes.S, sizes.K); }

auto fields(const DeviceProperties& device) {
  return std::tie(device.compute_capability, device.multiprocessors, device.shared_per_block,
                  device.shared_per_multiprocessor);
}

bool same(const std::optional<CtaChoice>& a, const std::optional<CtaChoice>& b) {
  if (!a || !b) return !a && !b;
  const auto fields = [](const CtaChoice& cta) {
    return std::tie(cta.rows, cta.cols, cta.threads, cta.reduced_rows, cta.reduced_cols);
  };
  return fields(*a) == fields(*b);
}

bool same(const PlanProblem& a, const PlanProblem& b) {
  return fields(a.sizes) == fields(b.sizes) && a.type == b.type && a.factors == b.factors && a.path == b.path &&
         a.weight_columns == b.weight_columns && same(a.cta, b.cta);
}

bool same(const FusedBlockProblem& a, const FusedBlockProblem& b) {
  return a.dim == b.dim && same(a.pyramid, b.pyramid);
}

template <class Problem, class Plan>
class Memory {
 public:
  template <class MakePlan>
  const Plan& find(const Problem& problem, const DeviceProperties& device, const MakePlan& make_plan) {
    for (const Entry& entry : entries_) {
      if (same(entry.problem, problem) && fields(entry.device) == fields(device)) return entry.plan;
    }
    Entry made{problem, device, make_plan(problem, device)};
    if (entries_.size() < kMostPlans) {
      entries_.push_back(std::move(made));
      return entries_.back().plan;
    }
    Entry& oldest = entries_[oldest_++ % kMostPlans];
    oldest = std::move(made);
    return oldest.plan;
  }

 private:
  struct Entry {
    Problem problem;
    DeviceProperties device;
    Plan plan;
  };
  std::vector<Entry> entries_;
  size_t oldest_ = 0;
};

}  // namespace

const std::vector<LaunchPlan>& remembered_forward_plan(const PlanProblem& problem, const DeviceProperties& device) {
  thread_local Memory<PlanProblem, std::vector<LaunchPlan>> plans;
  return plans.find(problem, device, forward_plan);
}

const BackwardPlan& remembered_backward_plan(const PlanProblem& problem, const DeviceProperties& device) {
  thread_local Memory<PlanProblem, BackwardPlan> plans;
  return plans.find(problem, device, backward_plan);
}

const FusedBlockPlan& remembered_fused_block_plan(const FusedBlockProblem& problem, const DeviceProperties& device) {
  thread_local Memory<FusedBlockProblem, FusedBlockPlan> plans;
  return plans.find(problem, device, fused_block_plan);
}

}  // namespace deltaconv::cuda
