// Stands in for the NuGet package Microsoft.ML.OnnxRuntime where it cannot be had: the signatures that
// examples/Score.cs uses. Its "model" gives the mean of the pixels as score and their red values as map, in [0, 1].
using System;
using System.Collections.Generic;
using System.Linq;
using Microsoft.ML.OnnxRuntime.Tensors;

namespace Microsoft.ML.OnnxRuntime.Tensors
{
    public abstract class Tensor<T>
    {
        public abstract T[] ToArray();
    }

    public class DenseTensor<T> : Tensor<T>
    {
        readonly T[] values;

        public DenseTensor(Memory<T> memory, ReadOnlySpan<int> dimensions, bool reverseStride = false)
        {
            int length = 1;
            foreach (int size in dimensions) length *= size;
            if (length != memory.Length) throw new ArgumentException("Length of memory must match product of dimensions.");
            values = memory.ToArray();
        }

        public override T[] ToArray() { return values; }
    }
}

namespace Microsoft.ML.OnnxRuntime
{
    public class NamedOnnxValue
    {
        readonly object values;

        protected NamedOnnxValue(string name, object values) { Name = name; this.values = values; }

        public string Name { get; set; }

        public static NamedOnnxValue CreateFromTensor<T>(string name, Tensor<T> value)
        {
            return new NamedOnnxValue(name, value.ToArray());
        }

        public IEnumerable<T> AsEnumerable<T>() { return (T[])values; }
    }

    public class DisposableNamedOnnxValue : NamedOnnxValue, IDisposable
    {
        public DisposableNamedOnnxValue(string name, object values) : base(name, values) { }

        public void Dispose() { }
    }

    public interface IDisposableReadOnlyCollection<T> : IReadOnlyCollection<T>, IReadOnlyList<T>, IDisposable { }

    public class Results : List<DisposableNamedOnnxValue>, IDisposableReadOnlyCollection<DisposableNamedOnnxValue>
    {
        public void Dispose() { }
    }

    public class InferenceSession : IDisposable
    {
        public InferenceSession(string modelPath) { }

        public IDisposableReadOnlyCollection<DisposableNamedOnnxValue> Run(
            IReadOnlyCollection<NamedOnnxValue> inputs, IReadOnlyCollection<string> outputNames)
        {
            byte[] pixels = inputs.Single(value => value.Name == "images").AsEnumerable<byte>().ToArray();
            float[] reds = pixels.Where((value, place) => place % 3 == 0).Select(value => value / 255f).ToArray();
            var score = new[] { (float)pixels.Average(value => value / 255.0) };
            var results = new Results();
            foreach (string name in outputNames)
                results.Add(new DisposableNamedOnnxValue(name, name == "score" ? score : reds));
            return results;
        }

        public void Dispose() { }
    }
}
