// Which accesses of a launch are ordered before which others, by CUDA's rules:
//
//   - __syncthreads orders all accesses before it before all accesses after it, for all threads of
//     a block;
//   - __syncwarp does so for the lanes of its mask. Shuffles and votes do not;
//   - an atomic operation orders only together with two fences. Let thread A execute __threadfence
//     and then an atomic operation on an address, and thread B a later atomic operation on that
//     address and then __threadfence. Then everything ordered before A's fence is ordered before
//     everything after B's fence. Each fence must be executed by the thread that makes the atomic
//     operation.
//
// Nothing else orders two blocks of a launch; launches are ordered. __threadfence_block orders
// nothing here.

#include "order.h"

#include <algorithm>
#include <deque>
#include <map>
#include <set>

namespace emulator {
namespace {

constexpr int LANES = 32;

// Logical clocks: a thread's clock advances at each event that orders it before others, and every
// visit records it.
uint32_t clocks[MAX_THREADS];
// For each thread and each lane of its warp: that lane's visits up to this clock are ordered before
// the thread's next access.
uint32_t heard[MAX_THREADS][LANES];
uint32_t at_barrier;  // clock of all threads after the last barrier; smaller clocks are ordered
uint32_t block;

// The visits of a fence's block that the fence orders. Visits that earlier fences published to its
// thread (`known`) are ordered as well.
struct Published {
    uint32_t block, thread, clock, at_barrier;
    uint32_t heard[LANES];
    bool has(const Visit& v) const {
        if (v.block != block) return false;
        if (v.clock < at_barrier || (v.thread == thread && v.clock <= clock)) return true;
        return v.thread / LANES == thread / LANES && v.clock <= heard[v.thread % LANES];
    }
};
std::deque<Published> published;  // one for each fence of this launch
using Known = std::set<size_t>;   // indices into published
struct ThreadKnowledge {
    Known known;         // ordered before the thread's next access
    Known met;           // found at its atomic operations, known after its next fence
    Known before_fence;  // known at its last fence, and that fence itself
};
ThreadKnowledge knowledge[MAX_THREADS];
bool any_known;  // whether any thread of this block knows a published fence
std::map<const void*, Known> at_atomics;  // by address: fences before atomic operations there

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
    const Known& known = knowledge[f.number].known;
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
    std::fill_n(knowledge, threads, ThreadKnowledge{});
    any_known = false;
}

void order_barrier() {
    at_barrier = *std::max_element(clocks, clocks + threads) + 1;
    std::fill_n(clocks, threads, at_barrier);
    if (!any_known) return;
    Known all;
    for (size_t t = 0; t < threads; t++) {
        all.insert(knowledge[t].known.begin(), knowledge[t].known.end());
    }
    for (size_t t = 0; t < threads; t++) knowledge[t].known = all;
}

void order_warp(int warp, unsigned mask) {
    uint32_t all[LANES] = {};
    Known known;
    for (int lane = 0; lane < LANES; lane++) {
        int thread = LANES * warp + lane;
        if (!(mask >> lane & 1)) continue;
        heard[thread][lane] = clocks[thread]++;
        for (int i = 0; i < LANES; i++) all[i] = std::max(all[i], heard[thread][i]);
        known.insert(knowledge[thread].known.begin(), knowledge[thread].known.end());
    }
    for (int lane = 0; lane < LANES; lane++) {
        if (!(mask >> lane & 1)) continue;
        std::copy_n(all, LANES, heard[LANES * warp + lane]);
        knowledge[LANES * warp + lane].known = known;
    }
}

void order_fence() {
    int thread = me().number;
    ThreadKnowledge& mine = knowledge[thread];
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
    ThreadKnowledge& mine = knowledge[me().number];
    Known& there = at_atomics[at];
    mine.met.insert(there.begin(), there.end());
    there.insert(mine.before_fence.begin(), mine.before_fence.end());
}

}  // namespace emulator
