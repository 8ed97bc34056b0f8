// SPDX-License-Identifier: Apache-2.0
// UpsampleArgmax: upsample_argmax.py defines the result.
//
// A block makes one tile of the result. The pixels between the same two columns and rows of the scores
// form a cell. The steps, with a barrier between them:
//   1. Find the winner at each pixel of the scores under the tile.
//   2. If the four corners of a cell agree, its winner is known, and a short sum over the classes gives
//      the confidence. The other cells go into a list, in pieces of a row.
//   3. All threads share the list evenly, wherever its cells lie. Only these pieces blend and compare
//      scores, which are in the cache.
//   4. Write the tile in rows of 16 bytes per thread.
#include "sfseg_kernels.cuh"

namespace sfseg {

constexpr int TILE_WIDTH = 128, TILE_HEIGHT = 32;  // numpy: the same names
constexpr int PIECE = 4;                           // pixels of a cell's row per thread
constexpr int TILE_ROW_BYTES = 16;

struct Place {
  int first;
  float weight;  // of the next index
};

// numpy: upsample_argmax._places
DEVICE Place place_of(int index, float scale, int source) {
  const float position = mul_rn(static_cast<float>(index), scale);
  Place place;
  place.first = smaller(static_cast<int>(position), source - 1);
  place.weight = add_rn(position, -static_cast<float>(place.first));
  return place;
}

// Loads N values, M per load; parts that start after `count` become zeros.
template <int M, int N, class T>
DEVICE void load_parts(const T* from, int count, float (&values)[N]) {
#pragma unroll
  for (int i = 0; i < N; i += M) {
    float part[M] = {};
    if (i < count) load(from + i, part);
#pragma unroll
    for (int k = 0; k < M; ++k) values[i + k] = part[k];
  }
}

// Scores of one image, read N classes of a pixel at a time.
template <class T, bool HWC>
struct Scores {
  static constexpr int N = HWC ? VECTOR_BYTES / sizeof(T) : 4;
  const T* data;
  int classes, stored, pixels;
  int load_bytes;  // widest aligned load for the classes of every pixel; 0: one at a time

  DEVICE_METHOD float one(int pixel, int c) const {
    const int per_pixel = HWC ? stored : 1, per_class = HWC ? 1 : pixels;
    return float_of(data[static_cast<long long>(pixel) * per_pixel + static_cast<long long>(c) * per_class]);
  }

  // Loads classes from `c` on of K pixels.
  template <int K>
  DEVICE_METHOD void load_classes(const int (&pixel)[K], int c, float (&values)[K][N]) const {
    if constexpr (HWC) {
#pragma unroll
      for (int k = 0; k < K; ++k) {
        const T* from = data + static_cast<long long>(pixel[k]) * stored + c;
        // All pixels use the same branch: threads that diverge would wait for each other.
        if (load_bytes == VECTOR_BYTES) {
          load(from, values[k]);
        } else if (load_bytes == VECTOR_BYTES / 2) {
          load_parts<N / 2>(from, classes - c, values[k]);
        } else if (sizeof(T) < 4 && load_bytes == VECTOR_BYTES / 4) {
          load_parts<VECTOR_BYTES / 4 / sizeof(T)>(from, classes - c, values[k]);
        } else {
          load_parts<1>(from, classes - c, values[k]);
        }
      }
    } else {
#pragma unroll
      for (int i = 0; i < N; ++i) {
        // After the last class it is read again and ignored: cheaper than a test.
        const T* plane = data + static_cast<long long>(smaller(c + i, classes - 1)) * pixels;
#pragma unroll
        for (int k = 0; k < K; ++k) values[k][i] = float_of(plane[pixel[k]]);
      }
    }
  }
};

// Every score is first compared with this. NaN compares false and never wins, and neither does -inf.
DEVICE float minus_infinity() { return float_of(0xff800000u); }

template <class T, bool HWC>
DEVICE unsigned char winner_at(const Scores<T, HWC>& scores, int pixel) {
  float best = minus_infinity();
  int winner = UNLABELLED;
  const int pixels[1] = {pixel};
  for (int c = 0; c < scores.classes; c += Scores<T, HWC>::N) {
    float values[1][Scores<T, HWC>::N];
    scores.load_classes(pixels, c, values);
#pragma unroll
    for (int i = 0; i < Scores<T, HWC>::N; ++i) {
      if (c + i < scores.classes && values[0][i] > best) {
        best = values[0][i];
        winner = c + i;
      }
    }
  }
  return static_cast<unsigned char>(winner);
}

struct Tile {
  alignas(TILE_ROW_BYTES) unsigned char labels[TILE_HEIGHT * TILE_WIDTH];
  unsigned char winners[(TILE_HEIGHT + 1) * (TILE_WIDTH + 1)];
  unsigned char cell_of_column[TILE_WIDTH], cell_of_row[TILE_HEIGHT];
  unsigned char cell_begin[TILE_WIDTH + 1];  // first column of each cell, then the end of the last cell
  float column_weight[TILE_WIDTH], row_weight[TILE_HEIGHT];
};

// The tile of a block.
struct Frame {
  int x, y, columns, rows;            // pixels of the result
  int first_x, first_y, cells, bands;  // cells: columns of cells, bands: rows of cells
  float x_scale, y_scale;
};

DEVICE Frame frame_of(int h, int w, int height, int width) {
  Frame frame;
  frame.x = blockIdx.x * TILE_WIDTH;
  frame.y = blockIdx.y * TILE_HEIGHT;
  frame.columns = smaller(TILE_WIDTH, width - frame.x);
  frame.rows = smaller(TILE_HEIGHT, height - frame.y);
  frame.x_scale = static_cast<float>(w - 1) / static_cast<float>(larger(width - 1, 1));
  frame.y_scale = static_cast<float>(h - 1) / static_cast<float>(larger(height - 1, 1));
  frame.first_x = place_of(frame.x, frame.x_scale, w).first;
  frame.first_y = place_of(frame.y, frame.y_scale, h).first;
  frame.cells = place_of(frame.x + frame.columns - 1, frame.x_scale, w).first - frame.first_x + 1;
  frame.bands = place_of(frame.y + frame.rows - 1, frame.y_scale, h).first - frame.first_y + 1;
  return frame;
}

// Step 1: tables of columns and rows, and the winners at the pixels of the scores.
template <class T, bool HWC>
DEVICE void survey(const Scores<T, HWC>& scores, const Frame& frame, int h, int w, Tile& tile) {
  const int thread = threadIdx.x;
  if (thread < frame.columns) {
    const Place place = place_of(frame.x + thread, frame.x_scale, w);
    const int cell = place.first - frame.first_x;
    tile.cell_of_column[thread] = static_cast<unsigned char>(cell);
    tile.column_weight[thread] = place.weight;
    if (thread == 0 || place_of(frame.x + thread - 1, frame.x_scale, w).first != place.first)
      tile.cell_begin[cell] = static_cast<unsigned char>(thread);
    if (thread == frame.columns - 1) tile.cell_begin[cell + 1] = static_cast<unsigned char>(thread + 1);
  } else if (thread >= TILE_WIDTH && thread - TILE_WIDTH < frame.rows) {
    const int row = thread - TILE_WIDTH;
    const Place place = place_of(frame.y + row, frame.y_scale, h);
    tile.cell_of_row[row] = static_cast<unsigned char>(place.first - frame.first_y);
    tile.row_weight[row] = place.weight;
  }
  const int across = frame.cells + 1;
  for (int i = thread; i < across * (frame.bands + 1); i += blockDim.x) {
    const int x = smaller(frame.first_x + i % across, w - 1);
    const int y = smaller(frame.first_y + i / across, h - 1);
    tile.winners[i] = winner_at(scores, y * w + x);
  }
}

// Returns the class at all four corners of a cell, or -1 if they differ.
DEVICE int common_winner(const Tile& tile, int cells, int band, int cell) {
  const unsigned char* top = tile.winners + band * (cells + 1) + cell;
  const unsigned char* bottom = top + cells + 1;
  return top[0] == top[1] && top[0] == bottom[0] && top[0] == bottom[1] ? top[0] : -1;
}

constexpr float LOG2_E = 1.4426950408889634f;

// Weights of up to PIECE pixels of a cell's row, from `column` on, between the corners of the cell.
struct Blend {
  int corners[4];  // scores: top left, top right, bottom left, bottom right
  float vy, wy, vx[PIECE], wx[PIECE];  // of the top, the bottom, the left, the right
};

DEVICE Blend blend_of(const Frame& frame, const Tile& tile, int h, int w, int row, int column) {
  const int left = frame.first_x + tile.cell_of_column[column], right = smaller(left + 1, w - 1);
  const int top = frame.first_y + tile.cell_of_row[row], bottom = smaller(top + 1, h - 1);
  Blend blend;
  blend.corners[0] = top * w + left;
  blend.corners[1] = top * w + right;
  blend.corners[2] = bottom * w + left;
  blend.corners[3] = bottom * w + right;
  blend.wy = tile.row_weight[row];
  blend.vy = add_rn(1.0f, -blend.wy);
#pragma unroll
  for (int i = 0; i < PIECE; ++i) {
    // Results for pixels after the end of the cell's row are discarded.
    blend.wx[i] = tile.column_weight[smaller(column + i, frame.columns - 1)];
    blend.vx[i] = add_rn(1.0f, -blend.wx[i]);
  }
  return blend;
}

// Larger scores have larger rounding errors: another class could then pass the one on which all corners
// agree, and the sum relative to that one would be wrong.
constexpr float AGREED_LIMIT = 128.0f;

// Computes the confidence in `winner` for a cell whose corners agree on it. It need not find the winner or
// rescale the sum: half the instructions of `evaluate`. Returns false if a corner exceeds AGREED_LIMIT.
template <class T, bool HWC>
DEVICE bool agreed_shares(
    const Scores<T, HWC>& scores, const Blend& blend, int winner, int (&shares)[PIECE]) {
  constexpr int N = Scores<T, HWC>::N;
  float best[4];
  bool is_usual = true;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    best[k] = scores.one(blend.corners[k], winner);
    is_usual = is_usual && fabsf(best[k]) <= AGREED_LIMIT;
  }
  if (!is_usual) return false;
  const float best_left = blend.vy * best[0] + blend.wy * best[2];
  const float best_right = blend.vy * best[1] + blend.wy * best[3];
  float sum[PIECE], vx[PIECE], wx[PIECE];
#pragma unroll
  for (int i = 0; i < PIECE; ++i) {
    sum[i] = 0.0f;
    vx[i] = LOG2_E * blend.vx[i];
    wx[i] = LOG2_E * blend.wx[i];
  }
  for (int c = 0; c < scores.classes; c += N) {
    float corner[4][N];
    scores.load_classes(blend.corners, c, corner);
#pragma unroll
    for (int k = 0; k < N; ++k) {
      if (c + k >= scores.classes) break;
      const float left = blend.vy * corner[0][k] + blend.wy * corner[2][k] - best_left;
      const float right = blend.vy * corner[1][k] + blend.wy * corner[3][k] - best_right;
#pragma unroll
      for (int i = 0; i < PIECE; ++i)  // fmaxf(NaN, 0) is 0: a score may not be finite
        sum[i] += fmaxf(exp2_fast(vx[i] * left + wx[i] * right), 0.0f);
    }
  }
#pragma unroll
  for (int i = 0; i < PIECE; ++i) shares[i] = static_cast<int>(rintf(255.0f / sum[i]));
  return true;
}

struct Pixels {
  float best[PIECE], sum[PIECE];
  int winner[PIECE];
};

// Blends the scores of up to PIECE pixels of a cell's row, from `column` on, and finds the winners. With
// CONFIDENCE it also sums exp(score - best), and rescales the sum at each better score.
template <bool CONFIDENCE, class T, bool HWC>
DEVICE Pixels evaluate(const Scores<T, HWC>& scores, const Blend& blend) {
  Pixels pixels;
#pragma unroll
  for (int i = 0; i < PIECE; ++i) {
    pixels.best[i] = minus_infinity();
    pixels.sum[i] = 0.0f;
    pixels.winner[i] = UNLABELLED;
  }
  for (int c = 0; c < scores.classes; c += Scores<T, HWC>::N) {
    float corner[4][Scores<T, HWC>::N];
    scores.load_classes(blend.corners, c, corner);
#pragma unroll
    for (int k = 0; k < Scores<T, HWC>::N; ++k) {
      if (c + k >= scores.classes) break;
      const float at_left = add_rn(mul_rn(blend.vy, corner[0][k]), mul_rn(blend.wy, corner[2][k]));
      const float at_right = add_rn(mul_rn(blend.vy, corner[1][k]), mul_rn(blend.wy, corner[3][k]));
#pragma unroll
      for (int i = 0; i < PIECE; ++i) {
        const float score = add_rn(mul_rn(blend.vx[i], at_left), mul_rn(blend.wx[i], at_right));
        const bool wins = score > pixels.best[i];
        if constexpr (CONFIDENCE) {
          // fmaxf(NaN, 0) is 0: scores may not be finite.
          const float share = fmaxf(exp2_fast(-fabsf(score - pixels.best[i]) * LOG2_E), 0.0f);
          pixels.sum[i] = wins ? pixels.sum[i] * share + 1.0f : pixels.sum[i] + share;
        }
        pixels.best[i] = wins ? score : pixels.best[i];
        pixels.winner[i] = wins ? c + k : pixels.winner[i];
      }
    }
  }
  return pixels;
}

// Step 4: write the tile's rows to the image, through the table if there is one.
DEVICE void write_tile(
    const unsigned char* tile, const Frame& frame, int height, int width, const unsigned char* remap,
    unsigned char* image) {
  constexpr int THREADS = TILE_WIDTH / TILE_ROW_BYTES;  // per row
  const int row = threadIdx.x / THREADS, column = threadIdx.x % THREADS * TILE_ROW_BYTES;
  if (row >= frame.rows || column >= frame.columns) return;
  const unsigned char* from = tile + row * TILE_WIDTH + column;
  image += (static_cast<long long>(blockIdx.z) * height + frame.y + row) * width + frame.x + column;
  Words<4> words = *reinterpret_cast<const Words<4>*>(from);
  if (remap != nullptr) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const unsigned word = words.word[k];
      words.word[k] = remap[word & 255u] | static_cast<unsigned>(remap[word >> 8 & 255u]) << 8 |
                      static_cast<unsigned>(remap[word >> 16 & 255u]) << 16 |
                      static_cast<unsigned>(remap[word >> 24]) << 24;
    }
  }
  if (column + TILE_ROW_BYTES <= frame.columns && is_aligned<VECTOR_BYTES>(image)) {
    *reinterpret_cast<Words<4>*>(image) = words;
  } else {
#pragma unroll
    for (int i = 0; i < TILE_ROW_BYTES; ++i)
      if (column + i < frame.columns)
        image[i] = static_cast<unsigned char>(words.word[i / 4] >> (8 * (i % 4)));
  }
}

template <class T, bool HWC>
DEVICE Scores<T, HWC> scores_of(const T* data, int classes, int stored, int h, int w) {
  Scores<T, HWC> scores;
  scores.data = data + static_cast<long long>(blockIdx.z) * stored * h * w;
  scores.classes = classes;
  scores.stored = stored;
  scores.pixels = h * w;
  const size_t steps = reinterpret_cast<size_t>(scores.data) | static_cast<size_t>(stored) * sizeof(T);
  scores.load_bytes = steps % VECTOR_BYTES == 0 ? VECTOR_BYTES
                      : steps % (VECTOR_BYTES / 2) == 0 ? VECTOR_BYTES / 2
                      : steps % (VECTOR_BYTES / 4) == 0 ? VECTOR_BYTES / 4 : 0;
  return scores;
}

template <class T, bool HWC>
DEVICE void upsample_labels(
    const T* data, const unsigned char* remap, int classes, int stored, int h, int w, int stride,
    unsigned char* labels) {
  __shared__ Tile tile;
  __shared__ unsigned short pieces[TILE_HEIGHT * TILE_WIDTH];  // first pixel of each piece, in the tile
  __shared__ int piece_count;
  const int height = h * stride, width = w * stride;
  const Frame frame = frame_of(h, w, height, width);
  const Scores<T, HWC> scores = scores_of<T, HWC>(data, classes, stored, h, w);
  FOR_EACH_THREAD {
    if (threadIdx.x == 0) piece_count = 0;
    survey(scores, frame, h, w, tile);
  }
  __syncthreads();
  FOR_EACH_THREAD {
    for (int i = threadIdx.x; i < frame.rows * frame.cells; i += blockDim.x) {
      const int row = i / frame.cells, cell = i % frame.cells;
      const int winner = common_winner(tile, frame.cells, tile.cell_of_row[row], cell);
      const int begin = tile.cell_begin[cell], end = tile.cell_begin[cell + 1];
      const int first = row * TILE_WIDTH;
      if (winner >= 0) {
        for (int column = begin; column < end; ++column)
          tile.labels[first + column] = static_cast<unsigned char>(winner);
      } else {
        for (int column = begin; column < end; column += PIECE)
          pieces[atomicAdd(&piece_count, 1)] = static_cast<unsigned short>(first + column);
      }
    }
  }
  __syncthreads();
  FOR_EACH_THREAD {
    for (int k = threadIdx.x; k < piece_count; k += blockDim.x) {
      const int row = pieces[k] / TILE_WIDTH, column = pieces[k] % TILE_WIDTH;
      const Pixels pixels = evaluate<false>(scores, blend_of(frame, tile, h, w, row, column));
      const int end = tile.cell_begin[tile.cell_of_column[column] + 1];
#pragma unroll
      for (int i = 0; i < PIECE; ++i)
        if (column + i < end)
          tile.labels[pieces[k] + i] = static_cast<unsigned char>(pixels.winner[i]);
    }
  }
  __syncthreads();
  FOR_EACH_THREAD { write_tile(tile.labels, frame, height, width, remap, labels); }
}

template <class T, bool HWC>
DEVICE void upsample_confidence(
    const T* data, const unsigned char* remap, int classes, int stored, int h, int w, int stride,
    int threshold, unsigned char* labels, unsigned char* confidence) {
  __shared__ Tile tile;
  alignas(TILE_ROW_BYTES) __shared__ unsigned char shares[TILE_HEIGHT * TILE_WIDTH];
  __shared__ unsigned short pieces[TILE_HEIGHT * TILE_WIDTH];  // first pixel of each piece, in the tile
  __shared__ int piece_count;
  const int height = h * stride, width = w * stride;
  const Frame frame = frame_of(h, w, height, width);
  const Scores<T, HWC> scores = scores_of<T, HWC>(data, classes, stored, h, w);
  FOR_EACH_THREAD {
    if (threadIdx.x == 0) piece_count = 0;
    survey(scores, frame, h, w, tile);
  }
  __syncthreads();
  FOR_EACH_THREAD {
    for (int k = threadIdx.x; k < frame.rows * frame.cells; k += blockDim.x) {
      const int row = k / frame.cells, cell = k % frame.cells;
      const int common = common_winner(tile, frame.cells, tile.cell_of_row[row], cell);
      const int end = tile.cell_begin[cell + 1];
      for (int column = tile.cell_begin[cell]; column < end; column += PIECE) {
        const int pixel = row * TILE_WIDTH + column;
        int found[PIECE];
        if (common >= 0 && common != UNLABELLED &&
            agreed_shares(scores, blend_of(frame, tile, h, w, row, column), common, found)) {
#pragma unroll
          for (int i = 0; i < PIECE; ++i) {
            if (column + i < end) {
              tile.labels[pixel + i] = static_cast<unsigned char>(found[i] < threshold ? UNLABELLED : common);
              shares[pixel + i] = static_cast<unsigned char>(found[i]);
            }
          }
        } else {
          pieces[atomicAdd(&piece_count, 1)] = static_cast<unsigned short>(pixel);
        }
      }
    }
  }
  __syncthreads();
  FOR_EACH_THREAD {
    for (int k = threadIdx.x; k < piece_count; k += blockDim.x) {
      const int row = pieces[k] / TILE_WIDTH, column = pieces[k] % TILE_WIDTH;
      const int cell = tile.cell_of_column[column], end = tile.cell_begin[cell + 1];
      const int common = common_winner(tile, frame.cells, tile.cell_of_row[row], cell);
      const Pixels pixels = evaluate<true>(scores, blend_of(frame, tile, h, w, row, column));
#pragma unroll
      for (int i = 0; i < PIECE; ++i) {
        if (column + i < end) {
          const bool has_winner = pixels.winner[i] != UNLABELLED;
          const int share = has_winner ? static_cast<int>(rintf(255.0f / pixels.sum[i])) : 0;
          const int winner = share < threshold ? UNLABELLED : common >= 0 ? common : pixels.winner[i];
          tile.labels[pieces[k] + i] = static_cast<unsigned char>(winner);
          shares[pieces[k] + i] = static_cast<unsigned char>(share);
        }
      }
    }
  }
  __syncthreads();
  FOR_EACH_THREAD {
    write_tile(tile.labels, frame, height, width, remap, labels);
    write_tile(shares, frame, height, width, nullptr, confidence);
  }
}

}  // namespace sfseg

#define UPSAMPLE_ARGMAX(NAME, T, HWC)                                                                 \
  KERNEL sfseg_upsample_argmax_##NAME(                                                                \
      const T* __restrict__ data, int classes, int stored, int h, int w, int stride,                  \
      unsigned char* __restrict__ labels) {                                                           \
    sfseg::upsample_labels<T, HWC>(data, nullptr, classes, stored, h, w, stride, labels);             \
  }                                                                                                   \
  KERNEL sfseg_upsample_argmax_##NAME##_remap(                                                        \
      const T* __restrict__ data, const unsigned char* __restrict__ remap, int classes, int stored,   \
      int h, int w, int stride, unsigned char* __restrict__ labels) {                                 \
    sfseg::upsample_labels<T, HWC>(data, remap, classes, stored, h, w, stride, labels);               \
  }                                                                                                   \
  KERNEL sfseg_upsample_argmax_##NAME##_confidence(                                                   \
      const T* __restrict__ data, int classes, int stored, int h, int w, int stride, int threshold,   \
      unsigned char* __restrict__ labels, unsigned char* __restrict__ confidence) {                   \
    sfseg::upsample_confidence<T, HWC>(                                                               \
        data, nullptr, classes, stored, h, w, stride, threshold, labels, confidence);                 \
  }                                                                                                   \
  KERNEL sfseg_upsample_argmax_##NAME##_confidence_remap(                                             \
      const T* __restrict__ data, const unsigned char* __restrict__ remap, int classes, int stored,   \
      int h, int w, int stride, int threshold, unsigned char* __restrict__ labels,                    \
      unsigned char* __restrict__ confidence) {                                                       \
    sfseg::upsample_confidence<T, HWC>(                                                               \
        data, remap, classes, stored, h, w, stride, threshold, labels, confidence);                   \
  }

UPSAMPLE_ARGMAX(f32_linear, float, false)
UPSAMPLE_ARGMAX(f32_hwc, float, true)
UPSAMPLE_ARGMAX(f16_linear, sfseg::Half, false)
UPSAMPLE_ARGMAX(f16_hwc, sfseg::Half, true)
