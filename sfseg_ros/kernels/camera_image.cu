// SPDX-License-Identifier: Apache-2.0
// CameraImage: camera_image.py defines the result.
#include "sfseg_kernels.cuh"

namespace sfseg {

constexpr int CAMERA_PIXELS = 4;         // neighbouring pixels per thread; numpy: PIXELS
constexpr float PADDING_GREY = 114.0f;   // of the letterbox, geometry.PADDING_GREY

struct Rgb {
  int red, green, blue;
};

// The camera's bytes. `first`, `second` and `third` are those of camera_image._format.
struct Camera {
  const unsigned char* data;
  int height, width, step, pixel_bytes, first, second, third;
};

struct PackedRgb {
  DEVICE_MEMBER Rgb at(const Camera& camera, int y, int x) {
    const unsigned char* pixel = camera.data + y * camera.step + x * camera.pixel_bytes;
    return Rgb{pixel[camera.first], pixel[camera.second], pixel[camera.third]};
  }
};

DEVICE int clamped(int value) { return smaller(larger(value, 0), 255); }

// ITU-R BT.601 in OpenCV's fixed point: luma from 16, chroma around 128, 20 fractional bits.
struct Yuv422 {
  DEVICE_MEMBER Rgb at(const Camera& camera, int y, int x) {
    const unsigned char* pair = camera.data + y * camera.step + x / 2 * 4;
    const int luma = larger(pair[camera.first + x % 2 * 2] - 16, 0) * 1220542;
    const int u = pair[camera.second] - 128, v = pair[camera.third] - 128, half = 1 << 19;
    return Rgb{
        clamped((luma + 1673527 * v + half) >> 20),
        clamped((luma - 852492 * v - 409993 * u + half) >> 20),
        clamped((luma + 2116026 * u + half) >> 20)};
  }
};

// Bilinear demosaicing as in OpenCV: the outermost pixels are copies of their inner neighbours.
struct Bayer {
  DEVICE_MEMBER Rgb at(const Camera& camera, int y, int x) {
    x = smaller(larger(x, 1), camera.width - 2);
    y = smaller(larger(y, 1), camera.height - 2);
    const int dx = camera.pixel_bytes, dy = camera.step;
    const unsigned char* p = camera.data + y * dy + x * dx + camera.third;
    const bool red_column = (x & 1) == camera.first, red_row = (y & 1) == camera.second;
    if (red_column == red_row) {  // red or blue: four green neighbours, and four of the other colour on the diagonals
      const int green = (p[-dx] + p[dx] + p[-dy] + p[dy] + 2) >> 2;
      const int other = (p[-dy - dx] + p[-dy + dx] + p[dy - dx] + p[dy + dx] + 2) >> 2;
      return red_column ? Rgb{p[0], green, other} : Rgb{other, green, p[0]};
    }
    const int across = (p[-dx] + p[dx] + 1) >> 1, along = (p[-dy] + p[dy] + 1) >> 1;
    return red_row ? Rgb{across, p[0], along} : Rgb{along, p[0], across};
  }
};

// The resize of an axis after averaging by `factor`; numpy: Axis.
struct Stretch {
  int size, target;
  bool is_area;
  float unit, reciprocal;  // weights are multiples of 1 / unit
};

DEVICE Stretch stretch_of(int size, int target, bool is_area) {
  Stretch stretch{size, target, is_area && size != target, 0.0f, 0.0f};
  stretch.unit = static_cast<float>(stretch.is_area ? size : 2 * target);
  stretch.reciprocal = reciprocal_of(stretch.unit);
  return stretch;
}

// The means that contribute to one pixel of the target; numpy: _taps.
struct Reach {
  int index, first, count;
  float share;  // weight of the second mean, if there are at most two

  DEVICE_METHOD float weight(const Stretch& stretch, int k) const {
    if (!stretch.is_area) return k == 0 ? add_rn(1.0f, -share) : share;
    const int end = smaller((index + 1) * stretch.size, (first + k + 1) * stretch.target);
    const int begin = larger(index * stretch.size, (first + k) * stretch.target);
    return quotient(static_cast<float>(end - begin), stretch.unit, stretch.reciprocal);
  }
};

DEVICE Reach reach_of(const Stretch& stretch, int index) {
  const int size = stretch.size, target = stretch.target;
  if (size == target) return Reach{index, index, 1, 0.0f};
  if (stretch.is_area) {
    const int first = index * size / target;
    return Reach{index, first, ((index + 1) * size - 1) / target - first + 1, 0.0f};
  }
  const int position = smaller(larger((2 * index + 1) * size - target, 0), 2 * target * (size - 1));
  const int first = position / (2 * target), rest = position - first * 2 * target;
  const float share = quotient(static_cast<float>(rest), stretch.unit, stretch.reciprocal);
  return Reach{index, first, rest == 0 ? 1 : 2, share};
}

struct Resize {
  int area_x, area_y, area_width, area_height;              // of the image
  int content_x, content_y, content_width, content_height;  // of the network's input
  int factor;
  bool is_area_y, is_area_x;
};

// Returns red, green and blue, from 0 to 255, rounded half up.
template <class Format>
DEVICE void resized(
    const Camera& camera, const Resize& resize, const Stretch& y_stretch, const Reach& rows,
    const Stretch& x_stretch, int x, float scale, float (&rgb)[3]) {
  const int factor = resize.factor;
  const Reach columns = reach_of(x_stretch, x);
  float total[3] = {0.0f, 0.0f, 0.0f};
#pragma unroll 1
  for (int j = 0; j < rows.count; ++j) {
    float across[3] = {0.0f, 0.0f, 0.0f};
#pragma unroll 1
    for (int i = 0; i < columns.count; ++i) {
      const int top = resize.area_y + (rows.first + j) * factor;
      const int left = resize.area_x + (columns.first + i) * factor;
      Rgb sum{0, 0, 0};
#pragma unroll 1
      for (int v = top; v < top + factor; ++v) {
#pragma unroll 1
        for (int u = left; u < left + factor; ++u) {
          const Rgb pixel = Format::at(camera, v, u);
          sum.red += pixel.red;
          sum.green += pixel.green;
          sum.blue += pixel.blue;
        }
      }
      const float weight = columns.weight(x_stretch, i);
      across[0] = add_rn(across[0], mul_rn(weight, static_cast<float>(sum.red)));
      across[1] = add_rn(across[1], mul_rn(weight, static_cast<float>(sum.green)));
      across[2] = add_rn(across[2], mul_rn(weight, static_cast<float>(sum.blue)));
    }
    const float weight = rows.weight(y_stretch, j);
    for (int c = 0; c < 3; ++c) total[c] = add_rn(total[c], mul_rn(weight, across[c]));
  }
  for (int c = 0; c < 3; ++c) rgb[c] = fminf(floorf(add_rn(mul_rn(total[c], scale), 0.5f)), 255.0f);
}

struct Normalisation {
  float scale[3], shift[3];
};

// The arguments of every camera kernel, in the order of camera_image_launch.
#define CAMERA_PARAMETERS                                                                             \
  int image_height, int image_width, int step, int pixel_bytes, int first, int second, int third,     \
      int area_x, int area_y, int area_width, int area_height, int content_x, int content_y,          \
      int content_width, int content_height, int factor, int is_area_y, int is_area_x, int height,    \
      int width
#define CAMERA                                                                                        \
  sfseg::Camera { data, image_height, image_width, step, pixel_bytes, first, second, third }
#define RESIZE                                                                                        \
  sfseg::Resize {                                                                                     \
    area_x, area_y, area_width, area_height, content_x, content_y, content_width, content_height,     \
        factor, is_area_y != 0, is_area_x != 0                                                        \
  }

template <class Format, class T, bool HWC>
DEVICE void camera_image(
    const Camera& camera, const Resize& resize, const Normalisation* normalisation, int height,
    int width, T* image) {
  const int y = blockIdx.y * blockDim.y + threadIdx.y;
  const int x = (blockIdx.x * blockDim.x + threadIdx.x) * CAMERA_PIXELS;
  if (y >= height || x >= width) return;
  const int factor = resize.factor, content_y = y - resize.content_y;
  const bool is_content_row = content_y >= 0 && content_y < resize.content_height;
  const Stretch y_stretch =
      stretch_of(resize.area_height / factor, resize.content_height, resize.is_area_y);
  const Stretch x_stretch =
      stretch_of(resize.area_width / factor, resize.content_width, resize.is_area_x);
  const Reach rows = reach_of(y_stretch, content_y);
  const float scale = 1.0f / static_cast<float>(factor * factor);  // a power of two: exact
  float values[3][CAMERA_PIXELS];
#pragma unroll
  for (int i = 0; i < CAMERA_PIXELS; ++i) {
    const int content_x = x + i - resize.content_x;
    float rgb[3] = {PADDING_GREY, PADDING_GREY, PADDING_GREY};
    if (is_content_row && content_x >= 0 && content_x < resize.content_width)
      resized<Format>(camera, resize, y_stretch, rows, x_stretch, content_x, scale, rgb);
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      values[c][i] = rgb[c];
      if (normalisation != nullptr)
        values[c][i] = add_rn(mul_rn(rgb[c], normalisation->scale[c]), normalisation->shift[c]);
    }
  }
  const bool is_vector =
      width % CAMERA_PIXELS == 0 && is_aligned<CAMERA_PIXELS * sizeof(T)>(image);
  const int pixel = y * width + x;
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    // Part c of three: one colour, or a third of the twelve consecutive values of the pixels.
    float part[CAMERA_PIXELS];
#pragma unroll
    for (int i = 0; i < CAMERA_PIXELS; ++i)
      part[i] = HWC ? values[(c * CAMERA_PIXELS + i) % 3][(c * CAMERA_PIXELS + i) / 3] : values[c][i];
    T* out = image + (HWC ? 3 * pixel + c * CAMERA_PIXELS : c * height * width + pixel);
    if (is_vector) {
      store(out, part);
    } else {
#pragma unroll
      for (int i = 0; i < CAMERA_PIXELS; ++i)
        if (x + (HWC ? (c * CAMERA_PIXELS + i) / 3 : i) < width) out[i] = Storage<T>::from(part[i]);
    }
  }
}

}  // namespace sfseg

#define CAMERA_U8(NAME, FORMAT)                                                                       \
  KERNEL sfseg_camera_image_##NAME##_u8_hwc(                                                          \
      const unsigned char* __restrict__ data, CAMERA_PARAMETERS,                                      \
      unsigned char* __restrict__ image) {                                                            \
    FOR_EACH_THREAD {                                                                                 \
      sfseg::camera_image<sfseg::FORMAT, unsigned char, true>(                                        \
          CAMERA, RESIZE, nullptr, height, width, image);                                             \
    }                                                                                                 \
  }
#define CAMERA_FLOAT(NAME, FORMAT, LAYOUT, HWC, TYPE, T)                                              \
  KERNEL sfseg_camera_image_##NAME##_##TYPE##_##LAYOUT(                                               \
      const unsigned char* __restrict__ data, CAMERA_PARAMETERS, float scale_red, float scale_green,  \
      float scale_blue, float shift_red, float shift_green, float shift_blue,                         \
      T* __restrict__ image) {                                                                        \
    const sfseg::Normalisation normalisation{                                                         \
        {scale_red, scale_green, scale_blue}, {shift_red, shift_green, shift_blue}};                  \
    FOR_EACH_THREAD {                                                                                 \
      sfseg::camera_image<sfseg::FORMAT, T, HWC>(                                                     \
          CAMERA, RESIZE, &normalisation, height, width, image);                                      \
    }                                                                                                 \
  }
#define CAMERA_FORMAT(NAME, FORMAT)                                                                   \
  CAMERA_U8(NAME, FORMAT)                                                                             \
  CAMERA_FLOAT(NAME, FORMAT, linear, false, f32, float)                                               \
  CAMERA_FLOAT(NAME, FORMAT, hwc, true, f32, float)                                                   \
  CAMERA_FLOAT(NAME, FORMAT, linear, false, f16, sfseg::Half)                                         \
  CAMERA_FLOAT(NAME, FORMAT, hwc, true, f16, sfseg::Half)

CAMERA_FORMAT(packed, PackedRgb)
CAMERA_FORMAT(yuv422, Yuv422)
CAMERA_FORMAT(bayer, Bayer)
