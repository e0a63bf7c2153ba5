#include "cuda/plan/work.h"

#include "cuda/plan/rates.h"

namespace deltaconv::cuda {

CtaCost cost_of(const WorkPhases& phases) {
  CtaCost cost;
  for (size_t i = 0; i < cost.size(); ++i) {
    const WorkPhase& phase = phases[i];
    cost[i] = {0, phase.products, 0, phase.bytes, phase.waits, phase.asynchronous};
    for (int work = 0; work < kWorks; ++work) {
      cost[i].instructions += phase.counts[work] * kRates[work].instructions;
      cost[i].wavefronts += phase.counts[work] * kRates[work].wavefronts;
    }
  }
  return cost;
}

}  // namespace deltaconv::cuda
