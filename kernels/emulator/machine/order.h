// Which access of a launch is ordered before which.
#pragma once

#include "machine.h"

namespace emulator {

struct Visit {  // of a thread, at a byte
    uint32_t block = 0;  // its number in the launch, from 1 on; 0 if there was no visit
    uint32_t clock;      // of the thread
    uint32_t place;      // of the instruction
    uint16_t thread;
    bool atomic;
};

uint32_t block_number();
Visit visit_now(uint32_t place, bool atomic);
bool before_now(const Visit& visit);  // for the thread that runs

// What orders: the current thread's fence and its atomic operation on an address, the others as the
// watcher hears of them.
void order_launch();
void order_block();
void order_barrier();
void order_warp(int warp, unsigned mask);
void order_fence();
void order_atomic(const void* at);

}  // namespace emulator
