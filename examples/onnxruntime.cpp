// Score one image with an exported detector: ./score detector.onnx part.ppm THRESHOLD
// Build it as docs/integrate.md shows.
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <iostream>

#include "ppm.hpp"

int main(int count, char** arguments) try {
    if (count != 4) throw std::runtime_error("usage: score detector.onnx part.ppm IMAGE_THRESHOLD");
    Ppm image(arguments[2]);

    Ort::Env environment(ORT_LOGGING_LEVEL_ERROR, "dmdd");
    Ort::Session session(environment, std::filesystem::path(arguments[1]).c_str(), Ort::SessionOptions());

    // (1, height, width, 3) uint8 RGB: the pixels as they are, not copied.
    const std::array<int64_t, 4> shape{1, int64_t(image.height), int64_t(image.width), 3};
    auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    auto pixels =
        Ort::Value::CreateTensor<uint8_t>(memory, image.rgb.data(), image.rgb.size(), shape.data(), shape.size());
    const char* inputs[] = {"images"};
    const char* outputs[] = {"map", "score"};
    auto found = session.Run(Ort::RunOptions(), inputs, &pixels, 1, outputs, 2);

    const float score = found[1].GetTensorData<float>()[0];
    const float* values = found[0].GetTensorData<float>();  // (1, height, width) float32 in [0, 1]
    const float highest = *std::max_element(values, values + image.height * image.width);
    std::cout << "score " << std::fixed << score << "\n"
              << (score >= std::stof(arguments[3]) ? "anomalous" : "normal") << "\n"
              << "largest value of the map: " << highest << std::endl;
    return 0;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 2;
}
