// One fiber for each thread of a block: each has its own stack, and one function switches stacks.

#include "machine.h"

#include <sys/mman.h>
#include <ucontext.h>

namespace emulator {

Thread* current;
std::vector<Fiber> fibers;
size_t threads;
void (*kernel)(void*);
void* kernel_arguments;

namespace {

constexpr size_t PAGE = 1 << 12;
char* stacks;  // contiguous; each grows downwards to a guard page

[[noreturn]] void run_kernel() {
    for (;;) {  // once for each block
        kernel(kernel_arguments);
        me().state = DONE;
        suspend(me());
    }
}

#if defined(__x86_64__)
void* scheduler;

// Saves the callee-saved registers and the stack pointer, and loads those of another fiber.
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

void prepare(Fiber& f) {
    void** top = reinterpret_cast<void**>(f.stack + STACK);
    *--top = nullptr;  // return address of run_kernel, never used; keeps its stack aligned
    *--top = reinterpret_cast<void*>(run_kernel);
    for (int i = 0; i < 6; i++) *--top = nullptr;  // the registers
    f.at = top;
}

}  // namespace

void resume(Fiber& f) {
    current = &f;
    f.atomics = 0;
    emulator_switch(&scheduler, f.at);
}
void suspend(Fiber& f) { emulator_switch(&f.at, scheduler); }
#else
// On other processors: the C library's slower functions.
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

}  // namespace

void resume(Fiber& f) {
    current = &f;
    f.atomics = 0;
    swapcontext(&scheduler_context, &context(f));
}
void suspend(Fiber& f) { swapcontext(&context(f), &scheduler_context); }
#endif

// Take these stacks, or allocate some if there are none; return them, null if there is no memory.
// All libraries of a process share them, because only one launch runs at a time: Linux limits the
// number of mappings, of which each stack and its guard page are two.
extern "C" char* emulator_stacks(char* shared) {
    if (!shared) {
        int kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        size_t bytes = MAX_THREADS * (PAGE + STACK);
        void* all = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, kind, -1, 0);
        shared = all == MAP_FAILED ? nullptr : static_cast<char*>(all);
    }
    return stacks = shared;
}

void make_fibers() {
    while (fibers.size() < threads) {
        char* page = stacks + fibers.size() * (PAGE + STACK);
        mprotect(page, PAGE, PROT_NONE);  // a stack overflow causes a fault
        fibers.emplace_back();
        fibers.back().stack = page + PAGE;
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

bool on_a_stack(const char* at) { return size_t(at - stacks) < MAX_THREADS * (PAGE + STACK); }

}  // namespace emulator
