#include "traffic.h"

#include <algorithm>

namespace ptx {

namespace {

// The most different words that a bank must deliver to lanes [first, last).
int words_of_a_bank(const uint64_t* addresses, uint32_t mask, int bytes, int first, int last) {
  uint64_t words[32][32];
  int counts[32] = {}, most = 0;
  for (int lane = first; lane < last; ++lane) {
    if (!(mask >> lane & 1)) continue;
    for (uint64_t word = addresses[lane] / 4; word <= (addresses[lane] + bytes - 1) / 4; ++word) {
      uint64_t* known = words[word % 32];
      int& count = counts[word % 32];
      if (std::find(known, known + count, word) == known + count) known[count++] = word;
      most = std::max(most, count);
    }
  }
  return most;
}

}  // namespace

void count_wavefronts(Traffic& traffic, const uint64_t* addresses, uint32_t mask, int bytes) {
  const int together = bytes == 16 ? 8 : bytes == 8 ? 16 : 32;
  for (int first = 0; first < 32; first += together) {
    const int taken = words_of_a_bank(addresses, mask, bytes, first, first + together);
    traffic.wavefronts += static_cast<uint64_t>(taken);
    traffic.conflicts += static_cast<uint64_t>(std::max(taken - 1, 0));
  }
}

int sectors(const uint64_t* addresses, uint32_t mask) {
  uint64_t found[32];  // an aligned access touches one
  int count = 0;
  for (int lane = 0; lane < 32; ++lane) {
    if (mask >> lane & 1) found[count++] = addresses[lane] / 32;
  }
  std::sort(found, found + count);
  return static_cast<int>(std::unique(found, found + count) - found);
}

}  // namespace ptx
