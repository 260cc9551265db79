"""The ``dmdd`` command: ``dmdd train ...`` is ``python -m dmdd.train ...``, and so on."""

import difflib
import importlib
import sys

COMMANDS = {
    "train": ("dmdd.train", "train DMDD on one category: dmdd train category=screw"),
    "evaluate": ("dmdd.evaluate", "measure a saved model: dmdd evaluate model=runs/.../model category=screw"),
    "predict": ("dmdd.predict", "score a folder of images: dmdd predict model=runs/.../model input=DIR output=DIR"),
    "calibrate": ("dmdd.calibrate", "set thresholds from photographs: dmdd calibrate model=runs/.../model good=DIR"),
    "export": ("dmdd.export", "write a graph for other runtimes: dmdd export model=runs/.../model format=onnx"),
    "serve": ("dmdd.serve", "open a page to drop images on: dmdd serve model=runs/.../model"),
    "bench": ("dmdd.bench", "measure the speed of a model: dmdd bench model=runs/.../model"),
    "report": ("dmdd.report.__main__", "one table and one page over all results: dmdd report runs"),
    "data": ("dmdd.data.__main__", "check a data set, fetch one, or draw the demo: dmdd data check --help"),
}


def main(arguments: list[str] | None = None) -> int:
    """Run a subcommand.

    Args:
        arguments: Command line after ``dmdd``; ``sys.argv[1:]`` if None.

    Returns:
        The subcommand's exit code; 2 for an unknown one.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        lines = [f"  {name:<10} {text}" for name, (_, text) in COMMANDS.items()]
        print("usage: dmdd COMMAND ...\n\n" + "\n".join(lines) + "\n\ndmdd COMMAND --help tells more.")
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from dmdd import __version__

        print(f"dmdd {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        near = difflib.get_close_matches(arguments[0], COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        print(f"error: no command {arguments[0]}; {hint}", file=sys.stderr)
        return 2
    sys.argv = [f"dmdd {arguments[0]}", *arguments[1:]]
    module = importlib.import_module(COMMANDS[arguments[0]][0])
    return module.main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
