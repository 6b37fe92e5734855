// Which access of a launch is ordered before which, by CUDA's rules:
//
//   - __syncthreads orders what was before it and what is behind it, in all threads of a block;
//   - __syncwarp does so for the lanes of its mask. Shuffles and votes do not;
//   - an atomic operation orders only together with fences. What was ordered before a thread's
//     __threadfence, which its atomic operation on an address follows, is ordered before what comes
//     behind a __threadfence that another thread makes after a later atomic operation on that
//     address. Both fences have to be of the very threads that make the atomic operations.
//
// Nothing else orders two blocks of a launch; launches are ordered. __threadfence_block is taken
// for no fence at all.

#include "order.h"

#include <algorithm>
#include <deque>
#include <map>
#include <set>

namespace emulator {
namespace {

constexpr int MOST = 1024, LANES = 32;

// A thread's time: its clock goes on whenever it is ordered before others, and visits carry it.
uint32_t clocks[MOST];
// What each thread has heard of the clocks of its warp's lanes: their visits up to then are before.
uint32_t heard[MOST][LANES];
uint32_t at_barrier;  // the clock of all when they met last
uint32_t block;

// What was ordered before a fence: all this, and what the others had published (known).
struct Published {
    uint32_t block, thread, clock, at_barrier;
    uint32_t heard[LANES];
    bool has(const Visit& v) const {
        if (v.block != block) return false;
        if (v.clock < at_barrier || (v.thread == thread && v.clock <= clock)) return true;
        return v.thread / LANES == thread / LANES && v.clock <= heard[v.thread % LANES];
    }
};
std::deque<Published> published;  // in this launch
using Known = std::set<size_t>;   // which of them
struct OfThread {
    Known known, met;   // met: at atomic operations, and known from the next fence on
    Known before_fence;  // known at the last fence, and that fence itself
};
OfThread of_threads[MOST];
bool any_known;  // in this block
std::map<const void*, Known> at_atomics;

}  // namespace

uint32_t block_number() { return block; }

Visit visit_now(uint32_t place, bool atomic) {
    return {block, clocks[me().number], place, uint16_t(me().number), atomic};
}

bool before_now(const Visit& v) {
    const Fiber& f = me();
    if (v.block == 0) return true;
    if (v.block == block) {
        if (v.thread == f.number || v.clock < at_barrier) return true;
        if (v.thread / LANES == f.warp && v.clock <= heard[f.number][v.thread % LANES]) return true;
    }
    const Known& known = of_threads[f.number].known;
    return std::any_of(known.begin(), known.end(), [&](size_t i) { return published[i].has(v); });
}

void order_launch() {
    published.clear();
    at_atomics.clear();
}

void order_block() {
    block = block_index.x + grid_size.x * (block_index.y + grid_size.y * block_index.z) + 1;
    at_barrier = 1;
    std::fill_n(clocks, threads, at_barrier);
    std::fill_n(&heard[0][0], threads * LANES, 0);
    std::fill_n(of_threads, threads, OfThread{});
    any_known = false;
}

void order_barrier() {
    at_barrier = *std::max_element(clocks, clocks + threads) + 1;
    std::fill_n(clocks, threads, at_barrier);
    if (!any_known) return;
    Known all;
    for (size_t t = 0; t < threads; t++) {
        all.insert(of_threads[t].known.begin(), of_threads[t].known.end());
    }
    for (size_t t = 0; t < threads; t++) of_threads[t].known = all;
}

void order_warp(int warp, unsigned mask) {
    uint32_t all[LANES] = {};
    Known known;
    for (int lane = 0; lane < LANES; lane++) {
        int thread = LANES * warp + lane;
        if (!(mask >> lane & 1)) continue;
        heard[thread][lane] = clocks[thread]++;
        for (int i = 0; i < LANES; i++) all[i] = std::max(all[i], heard[thread][i]);
        known.insert(of_threads[thread].known.begin(), of_threads[thread].known.end());
    }
    for (int lane = 0; lane < LANES; lane++) {
        if (!(mask >> lane & 1)) continue;
        std::copy_n(all, LANES, heard[LANES * warp + lane]);
        of_threads[LANES * warp + lane].known = known;
    }
}

void order_fence() {
    int thread = me().number;
    OfThread& mine = of_threads[thread];
    if (!mine.met.empty()) any_known = true;
    mine.known.insert(mine.met.begin(), mine.met.end());
    mine.met.clear();
    Published now = {block, uint32_t(thread), clocks[thread]++, at_barrier, {}};
    std::copy_n(heard[thread], LANES, now.heard);
    mine.before_fence = mine.known;
    mine.before_fence.insert(published.size());
    published.push_back(now);
}

void order_atomic(const void* at) {
    OfThread& mine = of_threads[me().number];
    Known& there = at_atomics[at];
    mine.met.insert(there.begin(), there.end());
    there.insert(mine.before_fence.begin(), mine.before_fence.end());
}

}  // namespace emulator
