// Score one image with an exported detector: ./score detector.xml part.ppm THRESHOLD (an .onnx file works too).
// Build it as docs/integrate.md shows.
#include <iostream>
#include <openvino/openvino.hpp>

#include "ppm.hpp"

int main(int count, char** arguments) try {
    if (count != 4) throw std::runtime_error("usage: score detector.xml part.ppm IMAGE_THRESHOLD");
    Ppm image(arguments[2]);

    ov::Core core;
    // f32: processors with bfloat16 units would compute in bfloat16.
    auto model = core.compile_model(arguments[1], "CPU", ov::hint::inference_precision(ov::element::f32),
                                    ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY));
    auto request = model.create_infer_request();

    // (1, height, width, 3) uint8 RGB: the pixels as they are, not copied.
    ov::Tensor pixels(ov::element::u8, ov::Shape{1, image.height, image.width, 3}, image.rgb.data());
    request.set_tensor("images", pixels);
    request.infer();

    const float score = request.get_tensor("score").data<float>()[0];
    const ov::Tensor map = request.get_tensor("map");  // (1, height, width) float32 in [0, 1]
    const float* values = map.data<float>();
    const float highest = *std::max_element(values, values + map.get_size());
    std::cout << "score " << std::fixed << score << "\n"
              << (score >= std::stof(arguments[3]) ? "anomalous" : "normal") << "\n"
              << "largest value of the map: " << highest << std::endl;
    return 0;
} catch (const std::exception& error) {
    std::cerr << "error: " << error.what() << std::endl;
    return 2;
}
