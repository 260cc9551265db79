// A binary PPM file (P6, 8 bit) as RGB pixels, so that the samples need no image library.
#pragma once
#include <cstdint>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

struct Ppm {
    size_t height = 0, width = 0;
    std::vector<uint8_t> rgb;  // row by row, three bytes a pixel

    explicit Ppm(const std::string& path) {
        std::ifstream file(path, std::ios::binary);
        std::string kind;
        int largest = 0;
        if (!(file >> kind >> width >> height >> largest) || kind != "P6" || largest != 255)
            throw std::runtime_error(path + " is not a binary PPM file of 8 bits");
        file.get();
        rgb.resize(height * width * 3);
        if (!file.read(reinterpret_cast<char*>(rgb.data()), rgb.size())) throw std::runtime_error(path + " is cut off");
    }
};
