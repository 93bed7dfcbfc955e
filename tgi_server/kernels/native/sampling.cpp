// A token for each row of scores: what changes scores, what filters them, and the choice, while a row is in the cache.
#include <limits>
#include <vector>

#include "draw.h"
#include "functions.h"
#include "kernel.h"

#define ROW(member)                                                                                       \
    member(uint64_t, seed) member(int64_t, position) member(int64_t, previous) member(int64_t, source)    \
    member(int64_t, known) member(int64_t, prompt) member(int64_t, draws) member(int64_t, watermark)      \
    member(int64_t, guide) member(int64_t, top_n_tokens) member(int64_t, top_k)                           \
    member(double, temperature) member(double, top_p) member(double, typical_p) member(double, min_p)     \
    member(double, repetition_penalty) member(double, frequency_penalty) member(double, presence_penalty)

struct Row {
    MEMBERS(ROW)
};

#define SAMPLE(member)                                                                                      \
    member(float*, scores) member(const Row*, rows) member(const int64_t*, texts)                           \
    member(const int64_t*, starts) member(const int64_t*, ids) member(const float*, values) /* the bias */  \
    member(const uint32_t*, masks) member(int64_t*, tokens) member(float*, logprobs)                        \
    member(float*, normalisers) member(int64_t, count) member(int64_t, size) member(int64_t, stride)        \
    member(int64_t, longest) member(int64_t, words) member(double, gamma) member(double, delta)

struct Sample {
    MEMBERS(SAMPLE)
};

static const float INF = std::numeric_limits<float>::infinity(), LOWEST = -std::numeric_limits<float>::max();
static const float LARGEST = 1e30f;
static const double NEGLIGIBLE = 30;
static const uint64_t WATERMARK_KEY = 15485863;
static const long PART = 64;       // scores that have a common maximum
static const long BUCKETS = 1024;  // of the keys by which a filter orders tokens

// The memory of a thread; `counts` is zero between rows.
struct Scratch {
    std::vector<float> maxima, masses;
    std::vector<int32_t> ids, counts;
    std::vector<std::pair<float, float>> bucket;

    void fit(long size) {
        if (static_cast<long>(counts.size()) >= size) return;
        maxima.resize(size / PART + 1);
        masses.resize(size + LANES);
        ids.resize(size + 1);
        counts.resize(size);
    }
};
static thread_local Scratch scratch;

static void mark(float* x, long size, uint64_t previous, double gamma, float delta) {
    const uint64_t key = mix(mix(previous) + WATERMARK_KEY), favoured = below(gamma);
    for (long i = 0; i < size; i++) x[i] += (mix(key + i) >> 11) < favoured ? delta : 0.0f;
}

// Counts the tokens, calls change(id, how many) for each of them once, and leaves the counts zero.
template <typename Change>
static void each_once(const int64_t* tokens, long count, long size, Change change) {
    int32_t* counts = scratch.counts.data();
    for (long i = 0; i < count; i++)
        if (static_cast<uint64_t>(tokens[i]) < static_cast<uint64_t>(size)) counts[tokens[i]]++;
    for (long i = 0; i < count; i++) {
        if (static_cast<uint64_t>(tokens[i]) >= static_cast<uint64_t>(size) || !counts[tokens[i]]) continue;
        change(tokens[i], counts[tokens[i]]);
        counts[tokens[i]] = 0;
    }
}

static void penalise(float* x, long size, const int64_t* text, const Row& row) {
    if (row.repetition_penalty != 1.0) {
        const float penalty = row.repetition_penalty;
        each_once(text, row.known, size, [=](long id, int32_t) {
            const float score = x[id] < 0.0f ? x[id] * penalty : x[id] / penalty;
            x[id] = std::min(std::max(score, -LARGEST), LARGEST);
        });
    }
    if (row.frequency_penalty != 0.0 || row.presence_penalty != 0.0) {
        const float frequency = row.frequency_penalty, presence = row.presence_penalty;
        each_once(text + row.prompt, row.known - row.prompt, size,
                  [=](long id, int32_t count) { x[id] -= presence + frequency * count; });
    }
}

static void forbid(float* x, long size, const uint32_t* mask) {
    for (long start = 0; start < size; start += 32, mask++) {
        if (*mask == UINT32_MAX) continue;
        const long stop = std::min(size - start, 32L);
        for (long i = 0; i < stop; i++) x[start + i] = *mask >> i & 1 ? x[start + i] : -INF;
    }
}

// A row while its token is chosen: all of its tokens, or those that a filter left.
class Chooser {
public:
    Chooser(float* x, long size) : x(x), size(size), parts((size + PART - 1) / PART) {
        ids = scratch.ids.data();
        maxima = scratch.maxima.data();
        masses = scratch.masses.data();
    }

    // Notes the maxima; to be called once the scores are what they shall be but for the temperature.
    void look() {
        best = -INF;
        for (long part = 0; part < parts; part++) {
            const long start = part * PART, stop = std::min(start + PART, size);
            vec high = vec{} - INF;
            long i = start;
            for (; i + LANES <= stop; i += LANES) {
                const vec v = load(x + i);
                high = v > high ? v : high;
            }
            float most = -INF;
            for (long lane = 0; lane < LANES; lane++) most = high[lane] > most ? high[lane] : most;
            for (; i < stop; i++) most = x[i] > most ? x[i] : most;
            maxima[part] = most;
            best = most > best ? most : best;
        }
    }

    void heat(float temperature) {
        for (long i = 0; i < size; i++) x[i] = (x[i] - best) / temperature;
        for (long part = 0; part < parts; part++) maxima[part] = (maxima[part] - best) / temperature;
        best = 0;
    }

    // Sums up the masses exp(score - best), and their products with score - best if the mean is needed.
    void weigh(bool with_mean) {
        if (listed) {
            for (long i = 0; i < count; i++) masses[i] = x[ids[i]] - best;
            sum(masses, count, with_mean, masses);
        } else {
            sum(x, size, with_mean, nullptr);
        }
    }

    void top_k(long k) {
        if (k >= size) return;
        float bound = LOWEST;  // of the k-th best: at least k parts have one that is as good
        if (k <= parts) {
            std::copy(maxima, maxima + parts, masses);
            std::nth_element(masses, masses + k - 1, masses + parts, std::greater<float>());
            bound = std::max(masses[k - 1], LOWEST);
        }
        list(bound);
        if (k < count) {
            for (long i = 0; i < count; i++) masses[i] = x[ids[i]];
            std::nth_element(masses, masses + k - 1, masses + count, std::greater<float>());
            keep([this, least = masses[k - 1]](long i) { return x[ids[i]] >= least; });
        }
        weigh(false);
    }

    // What is needed to reach the part p of the mass from the best on.
    void top_p(float p) {
        if (!listed) {
            weigh(false);
            list_heavy(p, INF);
        }
        reach(p, [this](long i) { return -x[ids[i]]; });
    }

    // The same from the most typical token on: the one whose score is nearest to the mean of all.
    void typical_p(float p) {
        weigh(true);
        const float typical = best + mean;
        if (!listed) list_heavy(p, typical - std::fabs(best - typical));
        reach(p, [this, typical](long i) { return std::fabs(typical - x[ids[i]]); });
        best = -INF;  // which need not be among the typical
        for (long i = 0; i < count; i++) best = std::max(best, x[ids[i]]);
        weigh(false);
    }

    void min_p(float p) {
        const float least = best + std::log(p);
        if (listed) return keep([this, least](long i) { return x[ids[i]] >= least; });
        list(std::max(least, LOWEST));
        weigh(false);
    }

    bool filtered() const { return listed; }

    // The first of the best.
    long first() const {
        long found = size;
        if (listed) {
            for (long i = 0; i < count; i++)
                if (x[ids[i]] == best) return ids[i];
        } else {
            const long part = std::find(maxima, maxima + parts, best) - maxima;
            found = std::find(x + part * PART, x + std::min((part + 1) * PART, size), best) - x;
        }
        return found < size ? found : 0;  // scores that are no numbers have no best
    }

    long draw(const Row& row) const {
        Race race(row.seed, row.position, best, NEGLIGIBLE);
        race.enter(first(), best);
        if (listed) {
            for (long i = 0; i < count; i++)
                if (race.rest(ids[i]) <= race.limit(masses[i])) race.enter(ids[i], x[ids[i]]);
        } else {
            for (long part = 0; part < parts; part++) run(race, part);
        }
        return race.winner;
    }

    // Sets what was filtered out to minus infinity.
    void erase() {
        if (!listed) return;
        for (long i = 0; i < count; i++) masses[i] = x[ids[i]];
        std::fill(x, x + size, -INF);
        for (long i = 0; i < count; i++) x[ids[i]] = masses[i];
    }

    float normaliser() const { return best + static_cast<float>(std::log(total)); }

private:
    // Lists the tokens with at least the score `least`.
    void list(float least) {
        count = 0;
        for (long part = 0; part < parts; part++) {
            if (!(maxima[part] >= least)) continue;
            const long stop = std::min((part + 1) * PART, size);
            for (long i = part * PART; i < stop; i++) {
                ids[count] = i;
                count += x[i] >= least;
            }
        }
        listed = true;
    }

    // Lists the tokens among which part p of the mass is reached for sure, and all from the score `least` on; all others
    // together have less than 1 - p. Their masses, too; the total remains that of all tokens.
    void list_heavy(float p, float least) {
        const float light = best + std::log((1.0 - p) * total / size);
        list(std::max(std::min(light, least) - 0.01f, LOWEST));
        const double all = total;
        weigh(false);
        total = all;
    }

    template <typename Keep>
    void keep(Keep keep) {
        long left = 0;
        total = 0;
        for (long i = 0; i < count; i++) {
            if (!keep(i)) continue;
            ids[left] = ids[i];
            masses[left++] = masses[i];
            total += masses[i];
        }
        count = left;
    }

    // Keeps what is needed to reach part p of the mass from the smallest key on. Only the keys of one bucket are sorted.
    template <typename Key>
    void reach(float p, Key key) {
        float least = INF, most = -INF;
        for (long i = 0; i < count; i++) least = std::min(least, key(i)), most = std::max(most, key(i));
        const float scale = (BUCKETS - 1) / std::max(most - least, 1e-30f);
        const auto place = [&](long i) { return static_cast<long>((key(i) - least) * scale); };
        double sums[BUCKETS] = {}, before = 0;
        for (long i = 0; i < count; i++) sums[place(i)] += masses[i];
        const double wanted = p * total;
        long crossed = 0;
        while (crossed < BUCKETS - 1 && before + sums[crossed] < wanted) before += sums[crossed++];
        auto& bucket = scratch.bucket;
        bucket.clear();
        for (long i = 0; i < count; i++)
            if (place(i) == crossed) bucket.emplace_back(key(i), masses[i]);
        std::sort(bucket.begin(), bucket.end());
        float last = most;
        for (const auto& [at, mass] : bucket) {
            last = at;
            if ((before += mass) >= wanted) break;
        }
        keep([&](long i) { return key(i) <= last; });
    }

    // The sums of weigh(); stores the masses where they are wanted, with some more behind them.
    void sum(const float* from, long n, bool with_mean, float* out) {
        total = 0;
        double products = 0;
        const float shift = out ? 0 : best;
        for (long start = 0; start < n; start += 64 * LANES) {  // sums of more would lose digits
            const long stop = std::min(start + 64 * LANES, n);
            vec sums{}, weighted{};
            for (long i = start; i < stop; i += LANES) {
                const vec v = load(from + i, stop - i) - shift;
                vec mass = exponential(v);
                if (i + LANES > stop)
                    for (long lane = stop - i; lane < LANES; lane++) mass[lane] = 0;
                sums += mass;
                if (with_mean) weighted += mass * (v < -87.0f ? vec{} : v);  // infinity times nothing is no number
                if (out) store(mass, out + i);
            }
            total += ::total(sums);
            if (with_mean) products += ::total(weighted);
        }
        mean = products / total;
    }

    // Lets the tokens of a part of the row enter that may win.
    void run(Race& race, long part) const {
        if (maxima[part] < best - NEGLIGIBLE) return;
        const int64_t limit = race.limit(std::exp(static_cast<double>(maxima[part] - best)));
        const long start = part * PART, stop = std::min(start + PART, size);
        int64_t any = 0;  // is negative if one is: a comparison would keep the compiler from using vectors
        for (long i = start; i < stop; i++) any |= race.rest(i) - limit - 1;
        if (any >= 0) return;
        for (long i = start; i < stop; i++)
            if (race.rest(i) <= limit) race.enter(i, x[i]);
    }

    float* x;
    long size, parts;
    int32_t* ids;  // of what is left, ascending, once it is `listed`; `masses` belong to them
    float *maxima, *masses;
    float best = 0;
    double total = 0, mean = 0;
    long count = 0;
    bool listed = false;
};

static void edit(const Sample& a, long at, float* x) {
    const Row& row = a.rows[at];
    scratch.fit(a.size);
    if (a.starts)
        for (long i = a.starts[at]; i < a.starts[at + 1]; i++) x[a.ids[i]] += a.values[i];
    if (row.watermark) mark(x, a.size, row.previous, a.gamma, a.delta);
    penalise(x, a.size, a.texts + row.source * a.longest, row);
    if (a.masks && row.guide >= 0) forbid(x, a.size, a.masks + row.guide * a.words);
}

static void filter(Chooser& chooser, const Row& row) {
    if (row.temperature != 1.0) chooser.heat(row.temperature);
    if (row.top_k != 0) chooser.top_k(row.top_k);
    if (row.top_p != 1.0) chooser.top_p(row.top_p);
    if (row.typical_p != 1.0) chooser.typical_p(row.typical_p);
    if (row.min_p != 0.0) chooser.min_p(row.min_p);
    if (!chooser.filtered()) chooser.weigh(false);
}

static void sample(const Sample& a) {
#pragma omp for schedule(dynamic)
    for (long at = 0; at < a.count; at++) {
        const Row& row = a.rows[at];
        float* x = a.scores + at * a.stride;
        edit(a, at, x);
        Chooser chooser(x, a.size);
        chooser.look();
        filter(chooser, row);
        a.tokens[at] = row.draws ? chooser.draw(row) : chooser.first();
        a.normalisers[at] = chooser.normaliser();
        a.logprobs[at] = x[a.tokens[at]] - a.normalisers[at];
        chooser.erase();
    }
}

KERNEL(sample, float32, Sample)
extern "C" const char* sampling_row_layout() { return Row::layout(); }
