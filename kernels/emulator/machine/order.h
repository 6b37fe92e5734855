// Which accesses of a launch are ordered before which others (order.cc has the rules).
#pragma once

#include "machine.h"

namespace emulator {

struct Visit {  // one access of a thread to a byte
    uint32_t block = 0;  // number of its block in the launch, from 1; 0: no visit
    uint32_t clock;      // the thread's clock (order.cc)
    uint32_t place;      // offset of the instruction in the library
    uint16_t thread;
    bool atomic;
};

uint32_t block_number();
Visit visit_now(uint32_t place, bool atomic);
bool before_now(const Visit& visit);  // is it before the running thread's next access?

// Events that order accesses, as the watcher receives them; fences and atomic operations are those
// of the running thread.
void order_launch();
void order_block();
void order_barrier();
void order_warp(int warp, unsigned mask);
void order_fence();
void order_atomic(const void* at);

}  // namespace emulator
