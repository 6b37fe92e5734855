// The cost of each access: sectors of global memory, passes over the banks of shared memory.
//
// A GPU executes an instruction for all lanes of a warp together: a request. Here threads run one
// after the other, so requests are formed afterwards: since the block's last barrier, the n-th
// execution of an instruction by one lane is matched with the n-th execution by the other lanes.
// If lanes take different paths through a loop, a GPU may group them differently.
//
// Global memory delivers sectors of 32 bytes. A request needs every sector that its lanes touch,
// once; ideally only as many as its bytes fill. Caches are not modelled.
//
// Shared memory has 32 banks of 4 bytes; in one pass each bank delivers one word, to all lanes that
// read it. Ideally a request takes one pass; two with 8 bytes per lane, each for half of the lanes;
// four with 16 bytes. Half as many are enough for a load if all lanes i and i ^ 1 read the same
// bytes, or all lanes i and i ^ 2: both get them in one pass (NVIDIA's developer forum, thread 77228,
// "Unexpected shared memory bank conflict").
//
// Of each instruction the costliest request is kept, lane by lane, so that it can be drawn. A lane
// takes no part in a request if it does not reach the access: lanes diverge, or have ended.
//
// Arithmetic cannot be observed here. Instead, executions of each basic block (code without a
// branch) are counted; arithmetic.py finds the operations in each block in the compiled library.

#include "access.h"

#include <algorithm>
#include <map>
#include <tuple>
#include <unordered_map>

namespace emulator {
namespace {

constexpr int LANES = 32, BANKS = 32, WORD = 4, SECTOR = 32;

struct Entry {
    uint32_t place, bytes;
    uint32_t time;  // how often the thread had executed the instruction before
    uint16_t thread;
    uint8_t kind;
    bool shared;
    int array;  // as in Access
    uintptr_t at;
    auto request() const { return std::make_tuple(place, shared, thread / LANES, time); }
};

struct Cost {  // _Cost in launch.py has the same layout
    uint64_t place, shared, kind;
    uint64_t requests = 0, bytes = 0, transactions = 0, ideal = 0;
    uint64_t worst = 0;  // most sectors of a request, or passes of lanes that are served together
    uint64_t lanes = 0;  // summed over the requests
    // The first of the requests with the most transactions
    uint64_t block, warp, lane_bytes, most = 0, fewest = 0;  // most: its transactions; ideally
    uint64_t start;              // address of its array
    uint64_t at[LANES];          // 0: the lane takes no part
    char array[40];
};

std::vector<Entry> entries;  // since the last barrier
std::unordered_map<uint32_t, std::vector<uint32_t>> times;  // by place, then by thread
std::map<std::tuple<uint32_t, bool>, Cost> costs;

std::vector<uint64_t> block_executions;  // of each basic block, by the place of its counting call

using Lanes = std::vector<Entry>::const_iterator;

// Memory is divided into pieces of `size` bytes; returns the numbers of those the lanes touch.
std::vector<uintptr_t> pieces(Lanes begin, Lanes end, uintptr_t size) {
    std::vector<uintptr_t> all;
    for (Lanes e = begin; e < end; e++) {
        for (uintptr_t i = e->at / size; i <= (e->at + e->bytes - 1) / size; i++) all.push_back(i);
    }
    std::sort(all.begin(), all.end());
    all.erase(std::unique(all.begin(), all.end()), all.end());
    return all;
}

void add_global(Lanes begin, Lanes end, Cost& cost) {
    uint64_t bytes = pieces(begin, end, 1).size(), sectors = pieces(begin, end, SECTOR).size();
    cost.bytes += bytes;
    cost.transactions += sectors;
    cost.ideal += (bytes + SECTOR - 1) / SECTOR;
    cost.worst = std::max(cost.worst, sectors);
}

// Whether each lane i reads the same bytes as lane i ^ distance, unless that takes no part.
bool in_pairs(Lanes begin, Lanes end, int distance) {
    uintptr_t at[LANES] = {};
    for (Lanes e = begin; e < end; e++) at[e->thread % LANES] = e->at;
    return std::all_of(begin, end, [&](const Entry& e) {
        uintptr_t other = at[e.thread % LANES ^ distance];
        return other == 0 || other == e.at;
    });
}

void add_shared(Lanes begin, Lanes end, Cost& cost) {
    uint32_t together = begin->bytes > 8 ? LANES / 4 : begin->bytes > 4 ? LANES / 2 : LANES;
    bool load = begin->kind == READ;
    if (load && together < LANES && (in_pairs(begin, end, 1) || in_pairs(begin, end, 2))) {
        together *= 2;
    }
    cost.bytes += pieces(begin, end, 1).size();
    for (Lanes first = begin, last; first < end; first = last) {
        auto group = [&](Lanes e) { return e->thread % LANES / together; };
        for (last = first; last < end && group(last) == group(first);) last++;
        uint64_t words[BANKS] = {};
        for (uintptr_t word : pieces(first, last, WORD)) words[word % BANKS]++;
        uint64_t passes = *std::max_element(words, words + BANKS);
        cost.transactions += passes;
        cost.ideal++;
        cost.worst = std::max(cost.worst, passes);
    }
}

void keep_request(Lanes begin, Lanes end, Cost& cost) {
    Access access = {Kind(begin->kind), begin->shared, begin->array};
    snprintf(cost.array, sizeof cost.array, "%s", name_of(access).c_str());
    cost.block = block_index.x + uint64_t(grid_size.x) * (block_index.y +
                                                          grid_size.y * uint64_t(block_index.z));
    cost.warp = begin->thread / LANES;
    cost.lane_bytes = begin->bytes;
    const char* start = begin->shared ? arena + shared_arrays[begin->array].start
                                      : device_arrays[begin->array].start;
    cost.start = reinterpret_cast<uintptr_t>(start);
    std::fill(cost.at, cost.at + LANES, 0);
    for (Lanes e = begin; e < end; e++) cost.at[e->thread % LANES] = e->at;
}

// Groups the entries into requests and adds up their costs.
void form_requests() {
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
        return std::make_tuple(a.request(), a.thread) < std::make_tuple(b.request(), b.thread);
    });
    for (Lanes begin = entries.begin(), end; begin < entries.end(); begin = end) {
        for (end = begin; end < entries.end() && end->request() == begin->request();) end++;
        Cost empty = {begin->place, begin->shared, begin->kind};
        Cost& cost = costs.try_emplace({begin->place, begin->shared}, empty).first->second;
        uint64_t transactions = cost.transactions, ideal = cost.ideal;
        cost.requests++;
        cost.lanes += end - begin;
        (begin->shared ? add_shared : add_global)(begin, end, cost);
        transactions = cost.transactions - transactions;
        if (transactions <= cost.most) continue;
        cost.most = transactions;
        cost.fewest = cost.ideal - ideal;
        keep_request(begin, end, cost);
    }
    entries.clear();
    times.clear();
}

// How often the running thread has executed the instruction since the last barrier, until now.
uint32_t count_execution(uint32_t place) {
    std::vector<uint32_t>& executions = times[place];
    executions.resize(threads);
    return executions[me().number]++;
}

struct Profile : AccessWatcher {
    void launch_begins() override {
        costs.clear();
        block_executions.assign(block_executions.size(), 0);
    }
    void launch_ends() override {}
    void block_begins() override {
        entries.clear();
        times.clear();
    }
    void block_ends() override { form_requests(); }
    void barrier_passed() override { form_requests(); }
    void fence() override {}
    void warp_synchronised(int, unsigned) override {}
    void copy_arrives(const void*, uint32_t) override {}
    void access_skipped(uint32_t place) override { count_execution(place); }
    void accessed(const Access& access) override {
        // Addresses in the arena equal those of real shared memory, up to an offset.
        entries.push_back({access.place, uint32_t(access.bytes), count_execution(access.place),
                           uint16_t(me().number), uint8_t(access.kind), access.shared,
                           access.array, reinterpret_cast<uintptr_t>(access.at)});
    }
};

Profile profile;
// Initialising this variable when the library is loaded installs the watcher.
[[maybe_unused]] Watcher* const installed = watcher = &profile;

}  // namespace

// Copies at most `limit` costs of the last launch to `to`; returns how many there are.
extern "C" size_t emulator_profile(Cost* to, size_t limit) {
    for (const auto& cost : costs) {
        if (limit == 0) break;
        *to++ = cost.second;
        limit--;
    }
    return costs.size();
}

struct BasicBlock {  // _BasicBlock in launch.py has the same layout
    uint64_t place, executions;
};

// Copies at most `limit` basic blocks that the last launch executed to `to`; returns how many there
// are.
extern "C" size_t emulator_basic_blocks(BasicBlock* to, size_t limit) {
    size_t count = 0;
    for (size_t place = 0; place < block_executions.size(); place++) {
        if (block_executions[place] && count++ < limit) *to++ = {place, block_executions[place]};
    }
    return count;
}

}  // namespace emulator

// g++ calls this at the beginning of each basic block.
extern "C" void __sanitizer_cov_trace_pc() {
    using namespace emulator;
    if (!current) return;
    size_t place = place_of(__builtin_return_address(0));
    if (place >= block_executions.size()) block_executions.resize(2 * place);
    block_executions[place]++;
}
