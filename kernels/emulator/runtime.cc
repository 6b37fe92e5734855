// The machine that a kernel runs on: blocks one after the other, their threads as fibers.
//
// A fiber is a stack of its own. It runs until its thread ends, or has to wait for others; then the
// scheduler goes on with the next. So there is one order in which all happens, and it is chosen: a
// correct kernel gives the same result in every order of its threads and blocks, and a kernel that
// forgot a barrier mostly does not.
//
// What it checks: limits of a launch, barriers that not all threads reach, warp operations whose
// lanes disagree, writes beyond a shared array, accesses to memory that is not there.

#include "shim.h"

#include <algorithm>
#include <csetjmp>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include <dlfcn.h>
#include <sys/mman.h>
#include <ucontext.h>

#undef threadIdx
#undef blockIdx
#undef blockDim
#undef gridDim

namespace emulator {

Thread* current;
uint3 block_index;
dim3 block_size, grid_size;

namespace {

// --- fibers -----------------------------------------------------------------------------------

constexpr size_t STACK = 1 << 16, PAGE = 1 << 12;
enum State { READY, AT_BARRIER, IN_WARP, DONE };

struct Fiber : Thread {
    State state;
    int line;  // where it waits
    unsigned mask;  // of the warp operation that it waits for
    char* stack = nullptr;
    void* at = nullptr;  // its stack pointer while others run
    alignas(16) char values[32 * 16];  // what the lanes of its last warp operation gave
};

std::vector<Fiber> fibers;
size_t threads;  // of a block: the fibers in use
void* scheduler;

void (*kernel)(void*);
void* kernel_arguments;

#if defined(__x86_64__)
// Save the registers that a function must keep and the stack pointer, and take those of another.
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
    .text
    .globl emulator_switch
    .hidden emulator_switch
    .type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_switch, . - emulator_switch
)");

[[noreturn]] void run_kernel();

void prepare(Fiber& f) {
    void** top = reinterpret_cast<void**>(f.stack + STACK);
    *--top = nullptr;  // where run_kernel would return to; keeps its stack aligned
    *--top = reinterpret_cast<void*>(run_kernel);
    for (int i = 0; i < 6; i++) *--top = nullptr;  // the registers
    f.at = top;
}
void resume(Fiber& f) {
    current = &f;
    emulator_switch(&scheduler, f.at);
}
void wait(Fiber& f) { emulator_switch(&f.at, scheduler); }
#else
// Everywhere else: the C library's own, slower way.
[[noreturn]] void run_kernel();
ucontext_t scheduler_context;

ucontext_t& context(Fiber& f) { return *static_cast<ucontext_t*>(f.at); }
void prepare(Fiber& f) {
    if (!f.at) f.at = new ucontext_t;
    getcontext(&context(f));
    context(f).uc_stack.ss_sp = f.stack;
    context(f).uc_stack.ss_size = STACK;
    context(f).uc_link = nullptr;
    makecontext(&context(f), reinterpret_cast<void (*)()>(run_kernel), 0);
}
void resume(Fiber& f) {
    current = &f;
    swapcontext(&scheduler_context, &context(f));
}
void wait(Fiber& f) { swapcontext(&context(f), &scheduler_context); }
#endif

[[noreturn]] void run_kernel() {
    for (;;) {  // once for each block
        kernel(kernel_arguments);
        Fiber& f = static_cast<Fiber&>(*current);
        f.state = DONE;
        wait(f);
    }
}

Fiber& me() { return static_cast<Fiber&>(*current); }

// --- errors -----------------------------------------------------------------------------------

std::string failure;

__attribute__((format(printf, 1, 2))) void fail(const char* format, ...) {
    if (!failure.empty()) return;  // the first one caused the others
    char text[500];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    failure = text;
}

std::string position(const Thread& t) {
    char text[100];
    snprintf(text, sizeof text, "thread (%u, %u, %u) of block (%u, %u, %u)", t.index.x, t.index.y,
             t.index.z, block_index.x, block_index.y, block_index.z);
    return text;
}

sigjmp_buf out_of_the_kernel;

// A page fault: the arrays of the device end at pages that cannot be touched (memory.py).
void on_fault(int, siginfo_t* info, void* registers) {
    Dl_info place = {};
    void* pc = nullptr;
#if defined(__x86_64__)
    pc = reinterpret_cast<void*>(static_cast<ucontext_t*>(registers)->uc_mcontext.gregs[REG_RIP]);
    dladdr(pc, &place);
#endif
    (void)registers;
    // @offset@ within the library: Python turns it into a line
    fail("@%zx@: %s touches memory that is not there, at %p",
         static_cast<char*>(pc) - static_cast<char*>(place.dli_fbase), position(*current).c_str(),
         info->si_addr);
    siglongjmp(out_of_the_kernel, 1);
}

// --- shared memory ----------------------------------------------------------------------------

constexpr size_t ARENA = 1 << 18, RED_ZONE = 64;
constexpr size_t MOST_SHARED = 48 << 10;  // of a block, static and dynamic, on every GPU
// A signalling NaN: it makes NaN of whatever is computed from it, and is no longer the same number
// once something was added to it. Its two halves are NaNs as well.
constexpr uint32_t POISON = 0x7fa57da5;

struct Shared {
    const void* key;
    size_t start, bytes;
    const char* name;
};
alignas(256) char arena[ARENA];
std::vector<Shared> shared_arrays;
size_t arena_end, static_bytes;

void poison(char* from, size_t bytes) {
    for (size_t i = 0; i + 4 <= bytes; i += 4) std::memcpy(from + i, &POISON, 4);
}

void begin_shared(size_t dynamic) {
    poison(arena, arena_end);  // what the block before it used
    shared_arrays.clear();
    shared_arrays.push_back({nullptr, RED_ZONE, dynamic, "dynamic shared memory"});
    arena_end = RED_ZONE + (dynamic + 15) / 16 * 16 + RED_ZONE;
    static_bytes = 0;
}

// Around every shared array, to the byte, the poison must be whole.
void check_red_zones() {
    for (const Shared& s : shared_arrays) {
        size_t end = s.start + s.bytes, next = (end + 15) / 16 * 16 + RED_ZONE;
        for (size_t i = s.start - RED_ZONE; i < next; i++) {
            if (i == s.start) i = end;
            if (arena[i] != reinterpret_cast<const char*>(&POISON)[i % 4]) {
                fail("block (%u, %u, %u) wrote %s of %s (%zu bytes)", block_index.x,
                     block_index.y, block_index.z,
                     i < s.start ? "in front" : "beyond the end", s.name, s.bytes);
                return;
            }
        }
    }
}

// --- warps ------------------------------------------------------------------------------------

// An operation for which not all lanes of its mask have come yet. Branches of a warp may each have
// one of their own, with other lanes.
struct Pending {
    unsigned mask, arrived;
    int warp, line;
    char values[32 * 16];
};
std::vector<Pending> pending;

// --- blocks -----------------------------------------------------------------------------------

int barrier_votes[2];  // of a barrier, and of the one before it
int barriers;          // passed so far
std::vector<int> order;
unsigned order_number;
std::mt19937 random_numbers;

void permute(std::vector<int>& items) {
    std::iota(items.begin(), items.end(), 0);
    if (order_number == 1) std::reverse(items.begin(), items.end());
    if (order_number > 1) std::shuffle(items.begin(), items.end(), random_numbers);
}

// All that can run have run. True if the block may go on: its threads met at one barrier.
bool pass_barrier() {
    const Fiber* waiting = nullptr;
    const Fiber* ended = nullptr;
    for (size_t i = 0; i < threads; i++) {
        const Fiber& f = fibers[i];
        if (f.state == IN_WARP) {
            unsigned come = 0;
            for (const Pending& p : pending) {
                if (p.warp == f.warp && p.mask == f.mask) come = p.arrived;
            }
            fail("line %d: %s waits for lanes %08x of its warp, of which only %08x come", f.line,
                 position(f).c_str(), f.mask, come);
            return false;
        }
        if (f.state == DONE) ended = &f;
        if (f.state != AT_BARRIER) continue;
        if (waiting && waiting->line != f.line) {
            fail("divergent barrier: %s waits at line %d, thread (%u, %u, %u) at line %d",
                 position(f).c_str(), f.line, waiting->index.x, waiting->index.y,
                 waiting->index.z, waiting->line);
            return false;
        }
        waiting = &f;
    }
    if (waiting && ended) {
        fail("divergent barrier: %s waits at line %d, thread (%u, %u, %u) has ended",
             position(*waiting).c_str(), waiting->line, ended->index.x, ended->index.y,
             ended->index.z);
        return false;
    }
    for (size_t i = 0; i < threads; i++) fibers[i].state = READY;
    barriers++;
    barrier_votes[(barriers + 1) & 1] = 0;  // of the next; those of this one are still to be read
    return true;
}

// Run each of order[begin .. end) that can run, once. False if none can.
bool run_ready(size_t begin, size_t end) {
    bool ran = false;
    for (size_t i = begin; i < end && failure.empty(); i++) {
        Fiber& f = fibers[order[i]];
        if (f.state != READY) continue;
        resume(f);
        ran = true;
    }
    return ran;
}

// Run all that can run. As numbered or the other way round, one warp goes as far as it can before
// the next begins; in a random order all go forward together.
bool run_all() {
    if (order_number > 1) return run_ready(0, threads);
    bool ran = false;
    for (size_t begin = 0, end; begin < threads; begin = end) {
        int warp = fibers[order[begin]].warp;
        for (end = begin; end < threads && fibers[order[end]].warp == warp;) end++;
        while (run_ready(begin, end)) ran = true;
    }
    return ran;
}

void run_block(size_t dynamic) {
    begin_shared(dynamic);
    for (size_t i = 0; i < threads; i++) fibers[i].state = READY;
    pending.clear();
    barriers = barrier_votes[0] = barrier_votes[1] = 0;
    auto ended = [](int i) { return fibers[i].state == DONE; };
    permute(order);
    while (failure.empty() && !std::all_of(order.begin(), order.end(), ended)) {
        if (run_all()) continue;
        if (!pass_barrier()) return;
        permute(order);
    }
    check_red_zones();
}

void make_fibers() {
    while (fibers.size() < threads) {
        fibers.emplace_back();
        int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        void* all = mmap(nullptr, STACK + PAGE, PROT_READ | PROT_WRITE, kind, -1, 0);
        mprotect(all, PAGE, PROT_NONE);  // a stack that grows too far ends in a fault
        fibers.back().stack = static_cast<char*>(all) + PAGE;
    }
    for (size_t i = 0; i < threads; i++) {
        Fiber& f = fibers[i];
        unsigned n = i;
        f.index = {n % block_size.x, n / block_size.x % block_size.y,
                   n / block_size.x / block_size.y};
        f.number = i, f.lane = i % 32, f.warp = i / 32;
        prepare(f);
    }
}

// The limits of compute capability 7.5 and above, which the driver checks.
void check_launch(dim3 grid, dim3 block, size_t most_threads, size_t dynamic) {
    uint64_t count = uint64_t(block.x) * block.y * block.z;
    if (!count || count > 1024 || block.z > 64) {
        fail("a block of (%u, %u, %u) threads: there may be 1 to 1024, and 64 in z", block.x,
             block.y, block.z);
    } else if (count > most_threads) {
        fail("a block of %zu threads, where __launch_bounds__ promises at most %zu",
             size_t(count), most_threads);
    } else if (dynamic > MOST_SHARED) {
        fail("%zu bytes of shared memory: a block may have %zu", dynamic, MOST_SHARED);
    } else if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffff || grid.y > 65535 ||
               grid.z > 65535) {
        fail("a grid of (%u, %u, %u) blocks: there may be 1 to 2^31 - 1 in x, 65535 in y and z",
             grid.x, grid.y, grid.z);
    }
}

}  // namespace

// --- what the shim calls ----------------------------------------------------------------------

void barrier(int line) {
    Fiber& f = me();
    f.line = line;
    f.state = AT_BARRIER;
    wait(f);
}

int barrier_count(int predicate, int line) {
    int slot = (barriers + 1) & 1;
    barrier_votes[slot] += predicate != 0;
    barrier(line);
    return barrier_votes[slot];
}

const char* exchange(unsigned mask, const void* value, size_t bytes, int line) {
    Fiber& f = me();
    size_t lanes = std::min<size_t>(32, threads - 32 * f.warp);
    unsigned there = lanes == 32 ? ~0u : (1u << lanes) - 1;
    if (!(mask >> f.lane & 1)) {
        fail("line %d: %s is not in the mask %08x that it names", line, position(f).c_str(), mask);
    } else if (mask & ~there) {
        fail("line %d: the mask %08x names lanes that the block's %zu threads do not fill", line,
             mask, threads);
    }
    Pending* mine = nullptr;
    for (Pending& p : pending) {
        if (p.warp != f.warp || p.mask != mask) continue;
        mine = &p;
        if (p.line != line) {
            fail("line %d: %s comes with mask %08x while others wait for it at line %d", line,
                 position(f).c_str(), mask, p.line);
        }
    }
    if (!failure.empty()) wait(f);  // never resumed
    if (!mine) {
        pending.push_back({mask, 0, f.warp, line, {}});
        mine = &pending.back();
    }
    if (bytes) std::memcpy(mine->values + 16 * f.lane, value, bytes);
    mine->arrived |= 1u << f.lane;
    if (mine->arrived != mask) {
        f.line = line, f.mask = mask;
        f.state = IN_WARP;
        wait(f);
        return f.values;
    }
    for (size_t lane = 0; lane < lanes; lane++) {
        Fiber& other = fibers[32 * f.warp + lane];
        if (!(mask >> lane & 1)) continue;
        std::memcpy(other.values, mine->values, sizeof other.values);
        other.state = READY;
    }
    *mine = pending.back();
    pending.pop_back();
    return f.values;
}

void absent_lane(int from, unsigned mask, int line) {
    fail("line %d: %s reads lane %d, which is not in the mask %08x", line, position(me()).c_str(),
         from, mask);
    wait(me());
}

void refuse(const char* what, int line) {
    fail("line %d: %s %s", line, position(me()).c_str(), what);
    wait(me());
}

void* shared_array(const void* key, size_t bytes, size_t align, const char* name) {
    for (const Shared& s : shared_arrays) {
        if (s.key == key) return arena + s.start;
    }
    align = std::max<size_t>(align, 16);
    size_t start = (arena_end + align - 1) / align * align;
    if (start / align % 2 == 0) start += align;  // nobody shall rely on more than was declared
    arena_end = start + (bytes + 15) / 16 * 16 + RED_ZONE;
    static_bytes += bytes;
    if (static_bytes + shared_arrays[0].bytes > MOST_SHARED || arena_end > ARENA) {
        fail("%s: %zu bytes of shared memory, with the dynamic ones: a block may have %zu", name,
             static_bytes + shared_arrays[0].bytes, MOST_SHARED);
        wait(me());
    }
    shared_arrays.push_back({key, start, bytes, name});
    return arena + start;
}

void* dynamic_shared() { return arena + RED_ZONE; }

extern "C" void emulator_order(unsigned number) { order_number = number; }

int launch(void (*kernel_)(void*), void* arguments, dim3 grid, dim3 block, size_t most_threads,
           size_t dynamic, char* error, size_t length) {
    failure.clear();
    kernel = kernel_, kernel_arguments = arguments;
    grid_size = grid, block_size = block;
    check_launch(grid, block, most_threads, dynamic);
    if (failure.empty()) {
        threads = size_t(block.x) * block.y * block.z;
        random_numbers.seed(order_number);
        poison(arena, ARENA);
        order.resize(threads);
        make_fibers();
        std::vector<int> blocks(size_t(grid.x) * grid.y * grid.z);
        permute(blocks);

        static char signal_stack[1 << 16];
        stack_t own_stack = {}, stack_before;
        own_stack.ss_sp = signal_stack, own_stack.ss_size = sizeof signal_stack;
        sigaltstack(&own_stack, &stack_before);
        struct sigaction action = {}, fault_before, bus_before;
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigaction(SIGSEGV, &action, &fault_before);
        sigaction(SIGBUS, &action, &bus_before);
        if (!sigsetjmp(out_of_the_kernel, 1)) {
            for (int b : blocks) {
                unsigned n = b;
                block_index = {n % grid.x, n / grid.x % grid.y, n / grid.x / grid.y};
                run_block(dynamic);
                if (!failure.empty()) break;
            }
        }
        sigaction(SIGSEGV, &fault_before, nullptr);
        sigaction(SIGBUS, &bus_before, nullptr);
        sigaltstack(&stack_before, nullptr);
    }
    snprintf(error, length, "%s", failure.c_str());
    return !failure.empty();
}

}  // namespace emulator
