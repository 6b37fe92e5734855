// What each access costs: sectors of the device's memory, turns of the banks of shared memory.
//
// A GPU executes an instruction for the lanes of a warp together: a request. Here threads run one
// after the other, so that requests are put together afterwards: the n-th time that a lane comes by
// an instruction, since the block's last barrier, belongs with the n-th time of the other lanes.
// Where lanes take different ways through a loop, that is a guess which a GPU need not share.
//
// The memory of the device delivers sectors of 32 bytes. A request needs those that its lanes
// touch, each once; ideally, as many as its bytes fill. Caches are not considered.
//
// Arithmetic is not seen here, but how often each stretch of code without a branch was run: what
// there is in it stands in the library (arithmetic.py).
//
// Shared memory has 32 banks of 4 bytes; in one turn each gives one word, to all lanes that want
// it. Ideally a request takes one turn; one of 8 bytes two, for half of the lanes each, of 16 four.

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
    uint32_t time;  // how often the thread has come by
    uint16_t thread;
    uint8_t kind;
    bool shared;
    uintptr_t at;
    auto request() const { return std::make_tuple(place, shared, thread / LANES, time); }
};

struct Cost {  // as launch.py reads it
    uint64_t place, shared, kind;
    uint64_t requests = 0, bytes = 0, transactions = 0, ideal = 0;
    uint64_t worst = 0;  // sectors of a request, or turns of the lanes that have theirs together
};

std::vector<Entry> entries;  // since the last barrier
std::unordered_map<uint32_t, std::vector<uint32_t>> times;  // place: of each thread
std::map<std::tuple<uint32_t, bool>, Cost> costs;

std::vector<uint64_t> stretches;  // how often each was run, by the place of its call

using Lanes = std::vector<Entry>::const_iterator;

// How many different numbers there are, of pieces of this size, that the lanes touch.
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

void add_shared(Lanes begin, Lanes end, Cost& cost) {
    uint32_t together = begin->bytes > 8 ? LANES / 4 : begin->bytes > 4 ? LANES / 2 : LANES;
    cost.bytes += pieces(begin, end, 1).size();
    for (Lanes first = begin, last; first < end; first = last) {
        auto group = [&](Lanes e) { return e->thread % LANES / together; };
        for (last = first; last < end && group(last) == group(first);) last++;
        uint64_t words[BANKS] = {};
        for (uintptr_t word : pieces(first, last, WORD)) words[word % BANKS]++;
        uint64_t turns = *std::max_element(words, words + BANKS);
        cost.transactions += turns;
        cost.ideal++;
        cost.worst = std::max(cost.worst, turns);
    }
}

void put_together() {
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
        return std::make_tuple(a.request(), a.thread) < std::make_tuple(b.request(), b.thread);
    });
    for (Lanes begin = entries.begin(), end; begin < entries.end(); begin = end) {
        for (end = begin; end < entries.end() && end->request() == begin->request();) end++;
        Cost empty = {begin->place, begin->shared, begin->kind};
        Cost& cost = costs.try_emplace({begin->place, begin->shared}, empty).first->second;
        cost.requests++;
        (begin->shared ? add_shared : add_global)(begin, end, cost);
    }
    entries.clear();
    times.clear();
}

struct Profile : Listener {
    void launch_begins() override {
        costs.clear();
        stretches.assign(stretches.size(), 0);
    }
    void launch_ends() override {}
    void block_begins() override {
        entries.clear();
        times.clear();
    }
    void block_ends() override { put_together(); }
    void barrier_passed() override { put_together(); }
    void fence() override {}
    void warp_synchronised(int, unsigned) override {}
    void accessed(const Access& access) override {
        std::vector<uint32_t>& of_threads = times[access.place];
        of_threads.resize(threads);
        uint16_t thread = me().number;
        // Within the arena addresses are those of a block's shared memory, up to a shift.
        entries.push_back({access.place, uint32_t(access.bytes), of_threads[thread]++, thread,
                           uint8_t(access.kind), access.shared,
                           reinterpret_cast<uintptr_t>(access.at)});
    }
};

Profile the_only_one;
[[maybe_unused]] Watcher* const registered = watcher = &the_only_one;

}  // namespace

// The costs of the last launch, at most `most` of them; how many there are.
extern "C" size_t emulator_profile(Cost* to, size_t most) {
    for (const auto& cost : costs) {
        if (most == 0) break;
        *to++ = cost.second;
        most--;
    }
    return costs.size();
}

struct Stretch {  // as launch.py reads it
    uint64_t place, times;
};

// The stretches that the last launch ran, at most `most` of them; how many there are.
extern "C" size_t emulator_stretches(Stretch* to, size_t most) {
    size_t count = 0;
    for (size_t place = 0; place < stretches.size(); place++) {
        if (stretches[place] && count++ < most) *to++ = {place, stretches[place]};
    }
    return count;
}

}  // namespace emulator

// What g++ calls at the beginning of each.
extern "C" void __sanitizer_cov_trace_pc() {
    using namespace emulator;
    if (!current) return;
    size_t place = place_of(__builtin_return_address(0));
    if (place >= stretches.size()) stretches.resize(2 * place);
    stretches[place]++;
}
