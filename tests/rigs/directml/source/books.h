// What the simulated machine is (knobs), what is done to it while it runs (switches), and who holds what.
#pragma once

#include <atomic>
#include <cstdint>

namespace rig {

constexpr uint32_t kMaxAdapters = 8;
constexpr uint32_t kFirstLuid = 0x1000;  // adapter i has LUID 0:0x1000+i

enum class Factory : uint64_t { kWorks, kFails, kCrashes, kHangs };

/// The environment as rig.py writes it, read once at the first call.
struct Knobs {
    Knobs();
    uint32_t adapters;
    uint32_t npus;  // after the adapters: DXCore lists them for machine learning alone
    Factory factory;
    bool tiled, float64, usage_states;
    bool notifies;  // DXCore tells of budgets that change
    bool demotes;  // what a process holds beyond its budget lies in system memory
    // For each adapter:
    uint64_t budget_bytes[kMaxAdapters], physical_limit_bytes[kMaxAdapters];
    uint64_t hardware[kMaxAdapters], integrated[kMaxAdapters];
};
const Knobs& knobs();

enum Memory { kHeaps, kCommitted, kStaging, kMemories };

/// What one process holds on one adapter. Witness in rig.py mirrors this: 64-bit numbers in this order.
struct Holding {
    struct {
        std::atomic<uint64_t> bytes, count;
    } of[kMemories];
    std::atomic<uint64_t> peak_bytes;     // of heaps and committed resources together
    std::atomic<uint64_t> refused_count;  // requests past the physical limit
    std::atomic<uint64_t> asked_count;    // questions for the budget of the adapter's own memory

    uint64_t device_bytes() const { return of[kHeaps].bytes + of[kCommitted].bytes; }
    uint64_t staging_bytes() const { return of[kStaging].bytes; }
};

/// Books bytes; false, with nothing booked, past the physical limit that all living processes share.
bool charge(uint32_t adapter, Memory kind, uint64_t bytes);
void discharge(uint32_t adapter, Memory kind, uint64_t bytes);

struct Usage {
    bool found;
    uint64_t device_bytes, staging_bytes;
    uint64_t demoted_bytes;  // of device_bytes
    uint64_t local_bytes() const { return device_bytes - demoted_bytes; }
    uint64_t non_local_bytes() const { return staging_bytes + demoted_bytes; }
};
Usage usage_of(uint32_t adapter, uint64_t pid);
/// What all living processes hold.
Usage usage_of_all(uint32_t adapter);

uint64_t budget_bytes(uint32_t adapter);
/// Counts a question of this process for it.
void note_budget_asked(uint32_t adapter);
/// Whether the device is lost. Returns only when the device is not switched to hang.
bool device_removed(uint32_t adapter);

}  // namespace rig
