// Simulated DXCore: which adapters there are, and what they grant and hold at this moment.
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>

#include "books.h"
#include "com.h"

namespace rig {
namespace {

constexpr uint64_t kSharedSystemBytes = 8ull << 30;
constexpr uint32_t kHighPerformance = 2;
/// DXCORE_ADAPTER_ATTRIBUTE_D3D12_GENERIC_ML
constexpr uint8_t kGenericMl[16] = {0x41, 0x0d, 0x1b, 0xb7, 0x88, 0x10, 0x2f, 0x42,
                                    0xa2, 0x7c, 0x02, 0x50, 0xb7, 0xd3, 0xa9, 0x88};

enum Property : uint32_t {
    kInstanceLuid = 0,
    kDriverVersion = 1,
    kDriverDescription = 2,
    kHardwareId = 3,
    kDedicatedAdapterMemory = 7,
    kDedicatedSystemMemory = 8,
    kSharedSystemMemory = 9,
    kAcgCompatible = 10,
    kIsHardware = 11,
    kIsIntegrated = 12,
    kIsDetachable = 13,
};
enum State : uint32_t { kMemoryBudget = 1, kMemoryUsage = 2, kMemoryUsageByProcess = 3 };

template <class T>
std::string bytes_of(const T& value) {
    return {reinterpret_cast<const char*>(&value), sizeof value};
}

/// Copies an answer out; the caller's buffer may be larger, never smaller.
Result give(const std::string& answer, size_t size, void* out) {
    if (size < answer.size()) return kInvalidArgument;
    memcpy(out, answer.data(), answer.size());
    return kOk;
}

class Adapter : public Object {
  public:
    explicit Adapter(uint32_t adapter);

    bool yes() { return true; }

    bool is_property_supported(uint32_t property) { return !property_of(property).empty(); }

    Result get_property(uint32_t property, size_t size, void* out) {
        const std::string value = property_of(property);
        return value.empty() ? kInvalidArgument : give(value, size, out);
    }

    Result get_property_size(uint32_t property, size_t* size) {
        *size = property_of(property).size();
        return *size ? kOk : kInvalidArgument;
    }

    bool is_query_state_supported(uint32_t state) {
        return state == kMemoryBudget ||
               (knobs().usage_states && (state == kMemoryUsage || state == kMemoryUsageByProcess));
    }

    /// State 1 is about the calling process, 2 about the whole adapter, 3 about any process by its id.
    Result query_state(uint32_t state, size_t in_size, const uint32_t* in, size_t size, void* out) {
        if (!is_query_state_supported(state)) return kInvalidArgument;
        if (in_size != (state == kMemoryUsageByProcess ? 12 : 8)) return kInvalidArgument;
        const bool local = in[1] == 0;  // segment group local, or memory type dedicated
        if (state == kMemoryBudget) {
            if (local) note_budget_asked(adapter);
            const Usage own = usage_of(adapter, static_cast<uint64_t>(getpid()));
            const uint64_t budget = local ? budget_bytes(adapter) : kSharedSystemBytes;
            const uint64_t answer[4] = {budget, local ? own.local_bytes() : own.non_local_bytes(), budget / 2, 0};
            return give(bytes_of(answer), size, out);
        }
        struct {
            uint64_t committed, resident;
            uint64_t found;
        } answer{};
        if (state == kMemoryUsage) {
            const Usage all = usage_of_all(adapter);
            answer.committed = local ? all.local_bytes() : all.non_local_bytes();
        } else {
            const Usage usage = usage_of(adapter, in[2]);
            answer.committed = local ? usage.local_bytes() : usage.non_local_bytes();
            answer.found = usage.found;
        }
        answer.resident = answer.committed;
        return give(bytes_of(answer).substr(0, state == kMemoryUsage ? 16 : 24), size, out);
    }

  private:
    /// The bytes of a property, none where it is not known.
    std::string property_of(uint32_t property) const {
        switch (property) {
            case kInstanceLuid:
                return bytes_of(uint64_t{kFirstLuid + adapter});
            case kDriverVersion:
                return bytes_of(uint64_t{0x001F000000000001});
            case kDriverDescription:
                return (adapter < knobs().adapters ? "Simulated GPU " : "Simulated NPU ") + std::to_string(adapter) +
                       std::string(1, '\0');
            case kHardwareId: {
                const uint32_t vendor_device_subsystem_revision[4] = {0x1414, 0x0001 + adapter, 0, 0};
                return bytes_of(vendor_device_subsystem_revision);
            }
            case kDedicatedAdapterMemory: {
                const uint64_t limit = knobs().physical_limit_bytes[adapter];
                const uint64_t dedicated = limit == UINT64_MAX ? knobs().budget_bytes[adapter] : limit;
                return bytes_of(knobs().integrated[adapter] ? 0 : dedicated);
            }
            case kDedicatedSystemMemory:
                return bytes_of(uint64_t{0});
            case kSharedSystemMemory:
                return bytes_of(kSharedSystemBytes);
            case kIsHardware:
                return bytes_of(knobs().hardware[adapter] != 0);
            case kIsIntegrated:
                return bytes_of(knobs().integrated[adapter] != 0);
            case kAcgCompatible:
            case kIsDetachable:
                return bytes_of(false);
            default:
                return {};
        }
    }
};

const Interface kAdapter("IDXCoreAdapter", {
    slot<&Adapter::yes>(3),  // IsValid
    slot<&Adapter::yes>(4),  // IsAttributeSupported
    slot<&Adapter::is_property_supported>(5),
    slot<&Adapter::get_property>(6),
    slot<&Adapter::get_property_size>(7),
    slot<&Adapter::is_query_state_supported>(8),
    slot<&Adapter::query_state>(9),
});

Adapter::Adapter(uint32_t adapter) : Object(kAdapter, adapter) {}

/// Adapter 0 first once it is sorted by performance; the other way round until then.
class AdapterList : public Object {
  public:
    explicit AdapterList(bool for_machine_learning);

    Result get_adapter(uint32_t index, const Guid*, Object** out) {
        *out = nullptr;
        if (index >= count_) return kInvalidArgument;
        *out = make<Adapter>(sorted_ ? index : count_ - 1 - index);
        return kOk;
    }

    uint32_t get_count() { return count_; }

    Result sort(uint32_t count, const uint32_t* preferences) {
        sorted_ = count > 0 && preferences[0] == kHighPerformance;
        return kOk;
    }

  private:
    uint32_t count_;
    bool sorted_ = false;
};

const Interface kAdapterList("IDXCoreAdapterList", {
    slot<&AdapterList::get_adapter>(3),
    slot<&AdapterList::get_count>(4),
    slot<&AdapterList::sort>(7),
});

AdapterList::AdapterList(bool for_machine_learning)
    : Object(kAdapterList, 0), count_(knobs().adapters + (for_machine_learning ? knobs().npus : 0)) {}

using Told = void (*)(uint32_t kind, Object* adapter, void* context);
constexpr uint32_t kBudgetChange = 2;

/// Looks at the budgets all the time, and tells whoever registered for one that has changed.
class Notifications {
  public:
    uint32_t add(Object* adapter, Told told, void* context) {
        const std::lock_guard lock(mutex_);
        if (!begun_) std::thread([this] { watch(); }).detach();
        begun_ = true;
        registered_[++last_] = {adapter, told, context, budget_bytes(adapter->adapter)};
        return last_;
    }

    /// Returns when none of its calls runs any more.
    bool remove(uint32_t cookie) {
        const std::lock_guard lock(mutex_);
        return registered_.erase(cookie) != 0;
    }

  private:
    struct Registered {
        Object* adapter;
        Told told;
        void* context;
        uint64_t budget_bytes;
    };

    [[noreturn]] void watch() {
        while (true) {
            std::this_thread::sleep_for(std::chrono::milliseconds(2));
            const std::lock_guard lock(mutex_);
            for (auto& [cookie, one] : registered_) {
                const uint64_t now = budget_bytes(one.adapter->adapter);
                if (now == one.budget_bytes) continue;
                one.budget_bytes = now;
                one.told(kBudgetChange, one.adapter, one.context);
            }
        }
    }

    std::mutex mutex_;
    std::map<uint32_t, Registered> registered_;
    uint32_t last_ = 0;
    bool begun_ = false;
};

Notifications& notifications() {
    static Notifications& instance = *new Notifications();  // never destroyed: its thread goes on to the very end
    return instance;
}

class AdapterFactory : public Object {
  public:
    AdapterFactory();

    bool is_notification_supported(uint32_t kind) { return kind == kBudgetChange && knobs().notifies; }

    Result register_notification(Object* adapter, uint32_t kind, Told told, void* context, uint32_t* cookie) {
        if (!is_notification_supported(kind) || adapter->interface != &kAdapter) return kInvalidArgument;
        *cookie = notifications().add(adapter, told, context);
        return kOk;
    }

    Result unregister_notification(uint32_t cookie) {
        return notifications().remove(cookie) ? kOk : kInvalidArgument;
    }

    Result create_list(uint32_t, const Guid* attributes, const Guid*, Object** out) {
        *out = make<AdapterList>(!memcmp(attributes, kGenericMl, sizeof kGenericMl));
        return kOk;
    }

    Result get_adapter_by_luid(const uint64_t* luid, const Guid*, Object** out) {
        *out = nullptr;
        if (*luid < kFirstLuid || *luid >= kFirstLuid + knobs().adapters) return kInvalidArgument;
        *out = make<Adapter>(static_cast<uint32_t>(*luid - kFirstLuid));
        return kOk;
    }
};

const Interface kAdapterFactory("IDXCoreAdapterFactory", {
    slot<&AdapterFactory::create_list>(3),
    slot<&AdapterFactory::get_adapter_by_luid>(4),
    slot<&AdapterFactory::is_notification_supported>(5),
    slot<&AdapterFactory::register_notification>(6),
    slot<&AdapterFactory::unregister_notification>(7),
});

AdapterFactory::AdapterFactory() : Object(kAdapterFactory, 0) {}

}  // namespace
}  // namespace rig

extern "C" rig::Result DXCoreCreateAdapterFactory(const rig::Guid*, rig::Object** out) {
    *out = nullptr;
    switch (rig::knobs().factory) {
        case rig::Factory::kWorks:
            *out = rig::make<rig::AdapterFactory>();
            return rig::kOk;
        case rig::Factory::kFails:
            return rig::kFail;
        case rig::Factory::kCrashes:
            raise(SIGSEGV);
            return rig::kFail;
        case rig::Factory::kHangs:
            while (true) pause();
    }
    rig::stop("RIG_FACTORY is not known");
}
