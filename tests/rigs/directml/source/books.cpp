// The witness is a folder with a file of switches, and a file of holdings for each process, which that process
// keeps locked. The lock goes when the process does, however it ends, and with it what it held: as in a driver.
#include "books.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "com.h"

namespace rig {
namespace {

/// Numbers that rig.py writes into a running machine; 0 where it has not.
struct Switches {
    std::atomic<uint64_t> budget_bytes[kMaxAdapters], removed[kMaxAdapters], hung[kMaxAdapters];
};

const char* variable(const char* name) {
    const char* text = getenv(name);
    if (!text) stop((std::string(name) + " is missing: take the environment from tests/rigs/directml/rig.py").c_str());
    return text;
}

uint64_t number(const char* name) { return strtoull(variable(name), nullptr, 10); }

/// Reads "a,b,c": a number for each adapter, the last for all that follow.
void numbers(const char* name, uint64_t (&values)[kMaxAdapters]) {
    const char* text = variable(name);
    for (uint64_t& value : values) {
        char* end = nullptr;
        value = strtoull(text, &end, 10);
        if (*end == ',') text = end + 1;
    }
}

struct File {
    explicit File(const std::string& path, int flags)
        : descriptor(open(path.c_str(), flags | O_CLOEXEC, 0644)) {}
    ~File() {
        if (descriptor >= 0) close(descriptor);
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    const int descriptor;
};

void* map(int descriptor, size_t bytes) {
    if (descriptor < 0 || ftruncate(descriptor, static_cast<off_t>(bytes)) != 0) stop("RIG_WITNESS cannot be written");
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (memory == MAP_FAILED) stop("RIG_WITNESS cannot be mapped");
    return memory;
}

struct Books {
    const std::string folder = std::string(variable("RIG_WITNESS")) + "/";
    const File switches_file{folder + "switches", O_RDWR | O_CREAT};
    const File own_file{folder + std::to_string(getpid()), O_RDWR | O_CREAT};  // open for life: it is the lock
    Switches* switches = static_cast<Switches*>(map(switches_file.descriptor, sizeof(Switches)));
    Holding* own = nullptr;

    Books() {
        flock(own_file.descriptor, LOCK_EX);
        if (ftruncate(own_file.descriptor, 0) != 0) stop("RIG_WITNESS cannot be written");  // an earlier process
        own = static_cast<Holding*>(map(own_file.descriptor, sizeof(Holding[kMaxAdapters])));
    }
};

Books& books() {
    static Books& instance = *new Books();  // never destroyed: objects are released until the very end
    return instance;
}

Usage read_usage(const std::string& name, uint32_t adapter) {
    const File file(books().folder + name, O_RDONLY);
    const bool dead = file.descriptor < 0 || flock(file.descriptor, LOCK_SH | LOCK_NB) == 0;
    uint64_t held[sizeof(Holding) / sizeof(uint64_t)] = {};
    const off_t at = static_cast<off_t>(adapter * sizeof(Holding));
    if (dead || pread(file.descriptor, held, sizeof held, at) != sizeof held) return {};
    const uint64_t device = held[2 * kHeaps] + held[2 * kCommitted], budget = budget_bytes(adapter);
    return {true, device, held[2 * kStaging], knobs().demotes && device > budget ? device - budget : 0};
}

}  // namespace

Knobs::Knobs()
    : adapters(static_cast<uint32_t>(number("RIG_ADAPTERS"))),
      npus(static_cast<uint32_t>(number("RIG_NPUS"))),
      factory(static_cast<Factory>(number("RIG_FACTORY"))),
      tiled(number("RIG_TILED")),
      float64(number("RIG_FLOAT64")),
      usage_states(number("RIG_USAGE_STATES")),
      notifies(number("RIG_NOTIFIES")),
      demotes(number("RIG_DEMOTES")) {
    if (adapters + npus > kMaxAdapters) stop("RIG_ADAPTERS and RIG_NPUS are at most 8");
    numbers("RIG_BUDGET_BYTES", budget_bytes);
    numbers("RIG_PHYSICAL_LIMIT_BYTES", physical_limit_bytes);
    numbers("RIG_HARDWARE", hardware);
    numbers("RIG_INTEGRATED", integrated);
}

const Knobs& knobs() {
    static const Knobs instance;
    return instance;
}

bool charge(uint32_t adapter, Memory kind, uint64_t bytes) {
    Holding& own = books().own[adapter];
    const uint64_t limit = knobs().physical_limit_bytes[adapter];
    own.of[kind].bytes += bytes;  // before the look: two processes must not both get the last bytes
    if (kind != kStaging && limit != UINT64_MAX && usage_of_all(adapter).device_bytes > limit) {
        own.of[kind].bytes -= bytes;
        ++own.refused_count;
        return false;
    }
    ++own.of[kind].count;
    const uint64_t held = own.device_bytes();
    uint64_t peak = own.peak_bytes;
    while (held > peak && !own.peak_bytes.compare_exchange_weak(peak, held)) {
    }
    return true;
}

void discharge(uint32_t adapter, Memory kind, uint64_t bytes) {
    Holding& own = books().own[adapter];
    own.of[kind].bytes -= bytes;
    --own.of[kind].count;
}

Usage usage_of_all(uint32_t adapter) {
    DIR* folder = opendir(books().folder.c_str());
    if (!folder) stop("RIG_WITNESS cannot be read");
    Usage total{true, 0, 0, 0};
    while (const dirent* entry = readdir(folder)) {
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;
        const Usage one = read_usage(entry->d_name, adapter);
        total.device_bytes += one.device_bytes;
        total.staging_bytes += one.staging_bytes;
        total.demoted_bytes += one.demoted_bytes;
    }
    closedir(folder);
    return total;
}

Usage usage_of(uint32_t adapter, uint64_t pid) { return read_usage(std::to_string(pid), adapter); }

uint64_t budget_bytes(uint32_t adapter) {
    const uint64_t switched = books().switches->budget_bytes[adapter];
    return switched ? switched : knobs().budget_bytes[adapter];
}

void note_budget_asked(uint32_t adapter) { ++books().own[adapter].asked_count; }

bool device_removed(uint32_t adapter) {
    const Switches& switches = *books().switches;
    while (switches.hung[adapter]) {
        const timespec millisecond{0, 1000000};
        nanosleep(&millisecond, nullptr);
    }
    return switches.removed[adapter] != 0;
}

}  // namespace rig
