// What the parts of the machine know of each other: runtime.cc runs blocks of fibers (fibers.cc)
// on shared memory (shared.cc); a watcher hears of every access (access.cc) and judges it (race.cc,
// profile.cc).
#pragma once

#include "shim.h"

#include <string>
#include <vector>

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace emulator {

// --- fibers.cc --------------------------------------------------------------------------------

constexpr size_t STACK = 1 << 16;
enum State { READY, AT_BARRIER, IN_WARP, DONE };

struct Fiber : Thread {
    State state;
    int line;  // where it waits
    unsigned mask;  // of the warp operation that it waits for
    char* stack = nullptr;
    void* at = nullptr;  // its stack pointer while others run
    int atomics;  // operations since it waited last
    alignas(16) char values[32 * 16];  // what the lanes of its last warp operation gave
};

extern std::vector<Fiber> fibers;
extern size_t threads;  // of a block: the fibers in use
extern void (*kernel)(void*);
extern void* kernel_arguments;

inline Fiber& me() { return static_cast<Fiber&>(*current); }
void make_fibers();
void resume(Fiber& f);  // until it waits
void wait(Fiber& f);    // until it is resumed
bool on_a_stack(const char* at);

// --- runtime.cc -------------------------------------------------------------------------------

// The launch ends with this message, which may have an @offset@ within the library, of which Python
// makes a line. The first one counts.
__attribute__((format(printf, 1, 2))) void fail(const char* format, ...);
uint32_t place_of(const void* instruction);  // that offset
std::string position(uint3 thread, uint3 block);
inline std::string position(const Thread& t) { return position(t.index, block_index); }

// --- shared.cc --------------------------------------------------------------------------------

constexpr size_t ARENA = 1 << 18;
constexpr size_t MOST_SHARED = 48 << 10;  // of a block, static and dynamic, on every GPU
struct Shared {
    const void* key;
    size_t start, bytes;  // in the arena
    const char* name;
};
extern char arena[ARENA];
extern std::vector<Shared> shared_arrays;  // of this block

void poison(char* from, size_t bytes);
void begin_shared(size_t dynamic);
void check_red_zones();

// --- access.cc, race.cc, profile.cc -----------------------------------------------------------

enum Kind { READ, WRITE, ATOMIC };

// Who is told what a launch does. In the plain mode there is none.
struct Watcher {
    virtual void launch_begins() = 0;
    virtual void launch_ends() = 0;
    virtual void block_begins() = 0;
    virtual void block_ends() = 0;
    virtual void barrier_passed() = 0;
    virtual void fence() = 0;
    virtual void warp_synchronised(int warp, unsigned mask) = 0;
    // natural: the address should be a multiple of the bytes.
    virtual void access(Kind kind, const void* at, size_t bytes, bool natural,
                        uint32_t place) = 0;
};
extern Watcher* watcher;

}  // namespace emulator
