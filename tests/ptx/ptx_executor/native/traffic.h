// What an instruction moves, counted as the memory of a GPU does.
#pragma once

#include <cstdint>

namespace ptx {

struct Traffic {
  uint64_t issued = 0, lanes = 0, wavefronts = 0, conflicts = 0, sectors = 0, bytes = 0;
};

// Shared memory has 32 banks of 4 bytes, and a wavefront takes a word from each. Accesses of 8 bytes are made
// by half a warp at a time, those of 16 by a quarter: one wavefront each, but for conflicts, which are counted too.
void count_wavefronts(Traffic& traffic, const uint64_t* addresses, uint32_t mask, int bytes);

// Sectors of 32 bytes that a request of a warp touches; each lane accesses at most 16 aligned bytes.
int sectors(const uint64_t* addresses, uint32_t mask);

}  // namespace ptx
