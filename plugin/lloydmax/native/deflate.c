/* Raw deflate (RFC 1951) with literals only, in the blocks and with the code lengths of zlib's strategy HUFFMAN_ONLY at
   memory level 9: the same bytes. The twin is zlib itself, see format/packing.py. */
#include "core.h"

enum { LITERALS = 286, DISTANCES = 30, LENGTHS = 19, END = 256, FULL = 32767, WINDOW = 32768, AHEAD = 262 };

typedef struct {
    uint16_t freq, code, parent, len;
} Node;

typedef struct {
    uint8_t *out, *end;
    uint64_t bits;
    int count;
} Writer;

static void put(Writer *writer, uint64_t value, int length) {
    writer->bits |= value << writer->count;
    writer->count += length;
    while (writer->count >= 8) {
        if (writer->out < writer->end)
            *writer->out = (uint8_t)writer->bits;
        writer->out++;
        writer->bits >>= 8;
        writer->count -= 8;
    }
}

static void to_byte(Writer *writer) {
    if (writer->count)
        put(writer, 0, 8 - writer->count);
}

static uint16_t reversed(unsigned code, int length) {
    unsigned found = 0;
    for (; length > 0; length--, code >>= 1)
        found = found << 1 | (code & 1);
    return (uint16_t)found;
}

/* Codes from lengths. */
static void codes_of(Node *tree, int most, const uint16_t *counts) {
    unsigned next[16] = {0}, code = 0;
    for (int bits = 1; bits <= 15; bits++)
        next[bits] = code = (code + counts[bits - 1]) << 1;
    for (int n = 0; n <= most; n++)
        if (tree[n].len)
            tree[n].code = reversed(next[tree[n].len]++, tree[n].len);
}

typedef struct {
    int heap[2 * LITERALS + 1], length, most;
    uint8_t depth[2 * LITERALS + 1];
} Heap;

static int smaller(const Node *tree, const Heap *heap, int n, int m) {
    return tree[n].freq < tree[m].freq || (tree[n].freq == tree[m].freq && heap->depth[n] <= heap->depth[m]);
}

static void sift(const Node *tree, Heap *heap, int k) {
    int moved = heap->heap[k], j = 2 * k;
    for (; j <= heap->length; j *= 2) {
        if (j < heap->length && smaller(tree, heap, heap->heap[j + 1], heap->heap[j]))
            j++;
        if (smaller(tree, heap, moved, heap->heap[j]))
            break;
        heap->heap[k] = heap->heap[j];
        k = j;
    }
    heap->heap[k] = moved;
}

/* Lengths and codes of a tree of `elements` symbols; returns its last used symbol. At least two get codes. */
static int build(Node *tree, int elements, int longest) {
    Heap heap;
    int top = 2 * LITERALS + 1, node = elements, last = -1;
    uint16_t counts[16] = {0};
    heap.length = 0;
    for (int n = 0; n < elements; n++) {
        tree[n].len = 0;
        if (tree[n].freq) {
            heap.heap[++heap.length] = last = n;
            heap.depth[n] = 0;
        }
    }
    while (heap.length < 2) {
        int n = last < 2 ? ++last : 0;
        heap.heap[++heap.length] = n;
        tree[n].freq = 1;
        heap.depth[n] = 0;
    }
    for (int n = heap.length / 2; n >= 1; n--)
        sift(tree, &heap, n);
    do {
        int n = heap.heap[1];
        heap.heap[1] = heap.heap[heap.length--];
        sift(tree, &heap, 1);
        int m = heap.heap[1];
        heap.heap[--top] = n;
        heap.heap[--top] = m;
        tree[node].freq = (uint16_t)(tree[n].freq + tree[m].freq);
        heap.depth[node] = (uint8_t)(MAX(heap.depth[n], heap.depth[m]) + 1);
        tree[n].parent = tree[m].parent = (uint16_t)node;
        heap.heap[1] = node++;
        sift(tree, &heap, 1);
    } while (heap.length >= 2);
    heap.heap[--top] = heap.heap[1];
    int over = 0, at;
    tree[heap.heap[top]].len = 0;
    for (at = top + 1; at < 2 * LITERALS + 1; at++) {
        int n = heap.heap[at], bits = tree[tree[n].parent].len + 1;
        if (bits > longest) {
            bits = longest;
            over++;
        }
        tree[n].len = (uint16_t)bits;
        if (n <= last)
            counts[bits]++;
    }
    if (over) {
        for (; over > 0; over -= 2) {
            int bits = longest - 1;
            while (!counts[bits])
                bits--;
            counts[bits]--;
            counts[bits + 1] += 2;
            counts[longest]--;
        }
        for (int bits = longest; bits; bits--)
            for (int n = counts[bits]; n;) {
                int m = heap.heap[--at];
                if (m > last)
                    continue;
                tree[m].len = (uint16_t)bits;
                n--;
            }
    }
    codes_of(tree, last, counts);
    return last;
}

/* The lengths of a tree, run by run, told to `lengths` as frequencies (`writer` 0) or written. */
static void runs(const Node *tree, int most, Node *lengths, Writer *writer) {
    int before = -1, next = tree[0].len, count = 0, longest = next ? 7 : 138, shortest = next ? 4 : 3;
    for (int n = 0; n <= most; n++) {
        int here = next;
        next = n < most ? tree[n + 1].len : 0xFFFF;
        if (++count < longest && here == next)
            continue;
        int symbol = here, extra = 0, bits = 0, times = 1;
        if (count < shortest) {
            times = count;
        } else if (here) {
            if (here != before) {
                if (writer)
                    put(writer, lengths[here].code, lengths[here].len);
                else
                    lengths[here].freq++;
                count--;
            }
            symbol = 16, extra = count - 3, bits = 2;
        } else if (count <= 10) {
            symbol = 17, extra = count - 3, bits = 3;
        } else {
            symbol = 18, extra = count - 11, bits = 7;
        }
        for (; times; times--) {
            if (writer)
                put(writer, lengths[symbol].code, lengths[symbol].len);
            else
                lengths[symbol].freq++;
        }
        if (writer && bits)
            put(writer, (uint64_t)extra, bits);
        count = 0;
        before = here;
        longest = next == 0 ? 138 : here == next ? 6 : 7;
        shortest = next == 0 ? 3 : here == next ? 3 : 4;
    }
}

static int fixed_length(int symbol) { return symbol < 144 ? 8 : symbol < 256 ? 9 : symbol < 280 ? 7 : 8; }

/* One block of at most FULL literals. */
static void block(Writer *writer, const uint8_t *symbols, int n, int last, int storable) {
    static const uint8_t order[LENGTHS] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    Node tree[2 * LITERALS + 1], distances[2 * DISTANCES + 1], lengths[2 * LENGTHS + 1];
    uint32_t counts[4][256] = {{0}};
    int64_t fixed = 0, own = 0;
    memset(tree, 0, sizeof tree);
    memset(distances, 0, sizeof distances);
    memset(lengths, 0, sizeof lengths);
    int i = 0;
    for (; i + 4 <= n; i += 4)
        for (int lane = 0; lane < 4; lane++)
            counts[lane][symbols[i + lane]]++;
    for (; i < n; i++)
        counts[0][symbols[i]]++;
    for (int s = 0; s < 256; s++)
        tree[s].freq = (uint16_t)(counts[0][s] + counts[1][s] + counts[2][s] + counts[3][s]);
    tree[END].freq = 1;
    for (int s = 0; s <= END; s++)
        fixed += (int64_t)tree[s].freq * fixed_length(s);
    Node used[END + 1];
    memcpy(used, tree, sizeof used);
    int literals = build(tree, LITERALS, 15), far = build(distances, DISTANCES, 15), most = LENGTHS - 1;
    for (int s = 0; s <= END; s++)
        own += (int64_t)used[s].freq * tree[s].len;
    runs(tree, literals, lengths, 0);
    runs(distances, far, lengths, 0);
    static const uint8_t extra[LENGTHS] = {[16] = 2, [17] = 3, [18] = 7};
    uint16_t freq[LENGTHS];
    for (int s = 0; s < LENGTHS; s++)
        freq[s] = lengths[s].freq;
    build(lengths, LENGTHS, 7);
    for (int s = 0; s < LENGTHS; s++)
        own += freq[s] * (lengths[s].len + extra[s]);
    while (most >= 3 && !lengths[order[most]].len)
        most--;
    own += 3 * (most + 1) + 14;
    int64_t best = (own + 10) >> 3, plain = (fixed + 10) >> 3;
    best = MIN(best, plain);
    if (storable && n + 4 <= best) {
        put(writer, (uint64_t)last, 3);
        to_byte(writer);
        put(writer, (uint64_t)n, 16);
        put(writer, (uint64_t)n ^ 0xFFFF, 16);
        for (i = 0; i < n; i++)
            put(writer, symbols[i], 8);
        return;
    }
    if (plain == best) {
        uint16_t widths[16] = {0};
        for (int s = 0; s < 288; s++)
            tree[s].len = (uint16_t)fixed_length(s), widths[fixed_length(s)]++;
        codes_of(tree, 287, widths);
        put(writer, (uint64_t)(2 + last), 3);
    } else {
        put(writer, (uint64_t)(4 + last), 3);
        put(writer, (uint64_t)(literals + 1 - 257), 5);
        put(writer, (uint64_t)far, 5);
        put(writer, (uint64_t)(most + 1 - 4), 4);
        for (int s = 0; s <= most; s++)
            put(writer, lengths[order[s]].len, 3);
        runs(tree, literals, lengths, writer);
        runs(distances, far, lengths, writer);
    }
    uint32_t codes[257];
    uint8_t widths[257];
    for (int s = 0; s <= END; s++)
        codes[s] = tree[s].code, widths[s] = (uint8_t)tree[s].len;
    for (i = 0; i < n; i++) {
        writer->bits |= (uint64_t)codes[symbols[i]] << writer->count;
        writer->count += widths[symbols[i]];
        if (writer->count >= 32) {
            if (writer->end - writer->out >= 4) {
                uint8_t four[4] = {(uint8_t)writer->bits, (uint8_t)(writer->bits >> 8), (uint8_t)(writer->bits >> 16),
                                   (uint8_t)(writer->bits >> 24)};
                memcpy(writer->out, four, 4);
            }
            writer->out += 4;
            writer->bits >>= 32;
            writer->count -= 32;
        }
    }
    put(writer, codes[END], widths[END]);
}

/* The stream of n symbols; returns its length, which is more than `room` where that was too little. */
EXPORT int64_t lm_huffman(const uint8_t *symbols, int64_t n, uint8_t *out, int64_t room) {
    Writer writer = {out, out + room, 0, 0};
    int64_t at = 0;
    for (; n - at >= FULL; at += FULL)
        block(&writer, symbols + at, FULL, 0, 1);
    int64_t end = n <= 2 * WINDOW ? n : WINDOW + (n - 2 * WINDOW - 1) % WINDOW + 1;
    if (end >= 2 * WINDOW - AHEAD)
        end -= WINDOW; /* the window has moved on, and the block may begin before it */
    block(&writer, symbols + at, (int)(n - at), 1, n - at <= end);
    to_byte(&writer);
    return writer.out - out;
}

/* Whether six symbols in a row occur again within a window, or too many had to be compared to tell: where they do not,
   zlib's matches shorten nothing. */
EXPORT int lm_repeats(const uint8_t *symbols, int64_t n) {
    enum { SLOTS = 1 << 16, WALK = 64 };
    int32_t *heads = malloc((SLOTS + WINDOW) * sizeof(int32_t)), *links = heads + SLOTS;
    int found = !heads;
    if (heads)
        memset(heads, 0xFF, SLOTS * sizeof(int32_t));
    for (int64_t i = 0; !found && i + 8 <= n; i++) {
        uint64_t gram = 0;
        memcpy(&gram, symbols + i, 8);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        gram >>= 16;
#else
        gram <<= 16;
#endif
        uint32_t slot = (uint32_t)(gram * UINT64_C(0x9E3779B97F4A7C15) >> 48);
        int32_t other = heads[slot];
        for (int walk = 0; other >= 0 && i - other < WINDOW && !found; walk++) {
            found = walk == WALK || !memcmp(symbols + other, symbols + i, 6);
            int32_t next = links[other & (WINDOW - 1)];
            other = next < other ? next : -1;
        }
        links[i & (WINDOW - 1)] = heads[slot];
        heads[slot] = (int32_t)i;
    }
    for (int64_t i = MAX(0, n - 7); !found && i + 6 <= n; i++)
        for (int64_t j = MAX(0, i - WINDOW); !found && j < i; j++)
            found = !memcmp(symbols + j, symbols + i, 6);
    free(heads);
    return found;
}
