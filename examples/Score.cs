// Score one image with an exported detector: dotnet run -- detector.onnx part.ppm THRESHOLD
// Needs the NuGet package Microsoft.ML.OnnxRuntime.
using System;
using System.Collections.Generic;
using System.Globalization;
using System.IO;
using System.Linq;
using System.Text;
using Microsoft.ML.OnnxRuntime;
using Microsoft.ML.OnnxRuntime.Tensors;

static class Score
{
    static int Main(string[] arguments)
    {
        var (height, width, rgb) = ReadPpm(arguments[1]);
        // (1, height, width, 3) uint8 RGB.
        var pixels = new DenseTensor<byte>(rgb, new[] { 1, height, width, 3 });
        var inputs = new List<NamedOnnxValue> { NamedOnnxValue.CreateFromTensor("images", pixels) };
        using (var session = new InferenceSession(arguments[0]))
        using (var found = session.Run(inputs, new[] { "map", "score" }))
        {
            float score = found.First(value => value.Name == "score").AsEnumerable<float>().First();
            float highest = found.First(value => value.Name == "map").AsEnumerable<float>().Max();
            float threshold = float.Parse(arguments[2], CultureInfo.InvariantCulture);
            Console.WriteLine(FormattableString.Invariant($"score {score:F6}"));
            Console.WriteLine(score >= threshold ? "anomalous" : "normal");
            Console.WriteLine(FormattableString.Invariant($"largest value of the map: {highest:F6}"));
        }
        return 0;
    }

    static (int, int, byte[]) ReadPpm(string path)
    {
        byte[] file = File.ReadAllBytes(path);
        // "P6", width, height and 255, each followed by one white space; then the pixels.
        string[] header = Encoding.ASCII.GetString(file, 0, Math.Min(file.Length, 64)).Split((char[])null, 5);
        int start = header.Take(4).Sum(part => part.Length + 1);
        if (header[0] != "P6" || header[3] != "255") throw new FormatException(path + " is not a binary PPM file");
        return (int.Parse(header[2]), int.Parse(header[1]), file.Skip(start).ToArray());
    }
}
