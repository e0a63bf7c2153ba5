#include "cuda/plan/schedule.h"

#include <algorithm>
#include <array>
#include <limits>

namespace deltaconv::cuda {
namespace {

constexpr int32_t kMostResident = 32;                   // CTAs that a multiprocessor of any GPU holds
constexpr int64_t kRoundsDealt = 8, kMostDealt = 2560;  // rounds, or CTAs, at the end of a long launch
constexpr double kNever = std::numeric_limits<double>::infinity();
constexpr double kRounding = 1e-9;  // times that differ by less, as a part of themselves, are the same time

// The CTAs of one stage.
struct Kind {
  double alone, share;  // cycles of a CTA alone, and the part of them in which it keeps a unit busy
};

// What a multiprocessor is chosen by.
struct State {
  int64_t ctas;       // that it runs
  double completion;  // when the next one ends
};

// Multiprocessors that do the same at the same time.
class Group {
 public:
  explicit Group(int64_t multiprocessors) : multiprocessors(multiprocessors) {}

  int64_t multiprocessors;  // how many
  State state{0, kNever};

  void start(double now, int32_t stage, const Kind* kinds) {
    advance(now, kinds);
    ++state.ctas;
    shares_ += kinds[stage].share;
    if (count_ > 0 && running_[count_ - 1].stage == stage && running_[count_ - 1].left == kinds[stage].alone) {
      ++running_[count_ - 1].ctas;
    } else {
      running_[count_++] = {stage, 1, kinds[stage].alone};
    }
    find_completion(kinds);
  }

  // Ends the CTAs that end at state.completion.
  void complete(const Kind* kinds) {
    advance(state.completion, kinds);
    int32_t kept = 0;
    for (int32_t i = 0; i < count_; ++i) {
      const Running& running = running_[i];
      const Kind& kind = kinds[running.stage];
      if (running.left <= kind.alone * kRounding) {
        state.ctas -= running.ctas;
        shares_ -= running.ctas * kind.share;
      } else {
        running_[kept++] = running;
      }
    }
    count_ = kept;
    if (count_ == 0) shares_ = 0;
    find_completion(kinds);
  }

  bool does_the_same(const Group& other) const {
    return state.completion == other.state.completion && now_ == other.now_ && count_ == other.count_ &&
           std::equal(running_.begin(), running_.begin() + count_, other.running_.begin());
  }

 private:
  // CTAs of a stage that began together.
  struct Running {
    int32_t stage, ctas;
    double left;  // cycles, were each alone
    bool operator==(const Running& other) const {
      return stage == other.stage && ctas == other.ctas && left == other.left;
    }
  };

  double slowdown(int32_t stage, const Kind* kinds) const { return 1 + shares_ - kinds[stage].share; }

  void advance(double now, const Kind* kinds) {
    for (int32_t i = 0; i < count_; ++i) running_[i].left -= (now - now_) / slowdown(running_[i].stage, kinds);
    now_ = now;
  }

  void find_completion(const Kind* kinds) {
    double soonest = kNever;
    for (int32_t i = 0; i < count_; ++i) {
      soonest = std::min(soonest, running_[i].left * slowdown(running_[i].stage, kinds));
    }
    state.completion = now_ + soonest;
  }

  std::array<Running, kMostResident> running_;
  int32_t count_ = 0;
  double now_ = 0, shares_ = 0;
};

class Schedule {
 public:
  Schedule(const Kind* kinds, int64_t multiprocessors, int64_t resident) : kinds_(kinds), resident_(resident) {
    add(Group(multiprocessors));
  }

  void deal(int32_t stage, int64_t ctas) {
    while (ctas > 0) {
      const auto least = std::min_element(states_.begin(), states_.end(), [](const State& a, const State& b) {
        return a.ctas != b.ctas ? a.ctas < b.ctas : a.completion < b.completion;
      });
      if (least->ctas == resident_) {
        wait();
        continue;
      }
      const size_t i = least - states_.begin();
      if (ctas < groups_[i].multiprocessors) {
        Group rest = groups_[i];
        rest.multiprocessors -= ctas;
        groups_[i].multiprocessors = ctas;
        add(rest);
      }
      ctas -= groups_[i].multiprocessors;
      groups_[i].start(now_, stage, kinds_);
      states_[i] = groups_[i].state;
      merge(i);
    }
  }

  // The end of the last CTA.
  double end() {
    double last = now_;
    for (Group& group : groups_) {
      while (group.state.ctas > 0) {
        last = std::max(last, group.state.completion);
        group.complete(kinds_);
      }
    }
    return last;
  }

 private:
  void add(const Group& group) {
    groups_.push_back(group);
    states_.push_back(group.state);
  }

  // Makes group i and another that does the same one.
  void merge(size_t i) {
    for (size_t other = 0; other < groups_.size(); ++other) {
      if (other == i || states_[other].completion != states_[i].completion) continue;
      if (!groups_[other].does_the_same(groups_[i])) continue;
      groups_[other].multiprocessors += groups_[i].multiprocessors;
      groups_[i] = groups_.back();
      states_[i] = states_.back();
      groups_.pop_back();
      states_.pop_back();
      return;
    }
  }

  // Goes on to when a CTA ends.
  void wait() {
    now_ = kNever;
    for (const State& state : states_) now_ = std::min(now_, state.completion);
    for (size_t i = 0; i < groups_.size(); ++i) {
      if (states_[i].completion > now_ * (1 + kRounding)) continue;
      groups_[i].complete(kinds_);
      states_[i] = groups_[i].state;
    }
  }

  const Kind* kinds_;
  int64_t resident_;
  double now_ = 0;
  std::vector<Group> groups_;
  std::vector<State> states_;  // those of the groups, side by side: they are searched for every CTA
};

// The cells of a launch's CTAs (CtaOrder) in their order, over all images.
class Cells {
 public:
  Cells(const PlanProblem& problem, const LaunchPlan& plan)
      : order_(plan.stages.order),
        across_(order_.cell_cols.value),
        each_(across_ * order_.cell_rows.value),
        count_(each_ * problem.sizes.B) {}

  int64_t count() const { return count_; }
  // CTAs of a stage that have something to do in the cell.
  int64_t ctas(int64_t cell, int32_t stage) const {
    const auto row = static_cast<int32_t>(cell % each_ / across_), col = static_cast<int32_t>(cell % across_);
    const Span rows = order_.stages[stage].rows.part(row, order_.cell_rows);
    const Span cols = order_.stages[stage].cols.part(col, order_.cell_cols);
    return static_cast<int64_t>(rows.end - rows.begin) * (cols.end - cols.begin) * order_.channel_blocks.value;
  }

 private:
  const CtaOrder& order_;
  int64_t across_, each_, count_;
};

// Cycles that the launch takes at least: all multiprocessors are busy up to the end, and no CTA is faster than alone.
double least_cycles(const PlanProblem& problem, const DeviceProperties& device, const LaunchPlan& plan) {
  double alone = 0, busy = 0, longest = 0;
  for (int32_t s = 0; s < plan.stages.count; ++s) {
    const auto ctas = static_cast<double>(ctas_of(problem, plan, s));
    alone += ctas * plan.cycles[s].alone;
    busy += ctas * plan.cycles[s].busy;
    longest = std::max(longest, plan.cycles[s].alone);
  }
  return std::max(
      {longest, alone / static_cast<double>(plan.resident * device.multiprocessors), busy / device.multiprocessors});
}

}  // namespace

int64_t ctas_of(const PlanProblem& problem, const LaunchPlan& plan, int32_t stage) {
  return plan.stages.at[stage].tiling.count() * problem.sizes.B * plan.stages.order.channel_blocks.value;
}

double schedule_cycles(const PlanProblem& problem, const DeviceProperties& device, const LaunchPlan& plan) {
  const int64_t places = plan.resident * device.multiprocessors;
  Kind kinds[kMaxStages];
  int64_t left_out[kMaxStages], ctas = 0;  // CTAs that are not dealt, and all
  for (int32_t s = 0; s < plan.stages.count; ++s) {
    kinds[s] = {plan.cycles[s].alone, plan.cycles[s].busy / plan.cycles[s].alone};
    left_out[s] = ctas_of(problem, plan, s);
    ctas += left_out[s];
  }
  const int64_t rounds = std::clamp<int64_t>(kMostDealt / places, 1, kRoundsDealt);
  const int64_t dealt = ctas - std::max<int64_t>(0, ctas / places - rounds) * places;
  const Cells cells(problem, plan);
  int64_t first = cells.count(), surplus = -dealt;
  while (surplus < 0) {
    --first;
    for (int32_t s = 0; s < plan.stages.count; ++s) surplus += cells.ctas(first, s);
  }
  Schedule schedule(kinds, device.multiprocessors, plan.resident);
  for (int64_t cell = first; cell < cells.count(); ++cell) {
    for (int32_t s = 0; s < plan.stages.count; ++s) {
      const int64_t in_cell = cells.ctas(cell, s), skipped = std::min(in_cell, surplus);
      surplus -= skipped;
      schedule.deal(s, in_cell - skipped);
      left_out[s] -= in_cell - skipped;
    }
  }
  // Before, every place is always taken.
  double alone = 0, busy = 0;
  for (int32_t s = 0; s < plan.stages.count; ++s) {
    alone += static_cast<double>(left_out[s]) * plan.cycles[s].alone;
    busy += static_cast<double>(left_out[s]) * plan.cycles[s].busy;
  }
  return (alone + static_cast<double>(plan.resident - 1) * busy) / static_cast<double>(places) + schedule.end();
}

std::optional<LaunchPlan> fastest(const PlanProblem& problem, const DeviceProperties& device,
                                  std::vector<LaunchPlan> launches) {
  if (launches.empty()) return std::nullopt;
  for (LaunchPlan& launch : launches) {
    const bool fits_grid = launch.grid.blocks <= std::numeric_limits<int32_t>::max();
    launch.estimated_cycles = fits_grid ? least_cycles(problem, device, launch) : kNever;
  }
  // Most launches take more at least than the fastest one takes, and need no schedule.
  std::stable_sort(launches.begin(), launches.end(),
                   [](const LaunchPlan& a, const LaunchPlan& b) { return a.estimated_cycles < b.estimated_cycles; });
  const LaunchPlan* best = nullptr;
  for (LaunchPlan& launch : launches) {
    if (best && launch.estimated_cycles >= best->estimated_cycles) break;
    if (launch.estimated_cycles < kNever) launch.estimated_cycles = schedule_cycles(problem, device, launch);
    if (!best || launch.estimated_cycles < best->estimated_cycles) best = &launch;
  }
  return *best;
}

}  // namespace deltaconv::cuda
