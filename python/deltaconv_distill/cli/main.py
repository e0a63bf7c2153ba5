"""Chooses the subcommand; its module, and with it torch and diffusers, is imported only then."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module, metadata

from .errors import UserError

COMMANDS = {
    "demo": "convert, distil and compare the embedded teacher on this machine, and write a report",
    "analyze": "show how far each self-attention looks, and which kernel sizes follow",
    "check": "read every picture and caption of a data set, and name those that cannot be used",
    "cache": "encode images and captions once, for many distillations",
    "distill": "replace a pipeline's self-attention by ΔConvBlocks and train them",
    "evaluate": "measure how close a distilled student is to its teacher",
    "sample": "generate images with a pipeline, with or without a trained fusion",
    "flops": "count self-attention against ΔConvBlocks at rising image sizes",
    "info": "show versions, CPU, GPU and which backends can run here",
}
USER_MISTAKE, INTERRUPTED = 2, 130
# Whatever was being written: the disk is full, over its quota or not to be written to, or something stands in the way.
DISK_FAULTS = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
)


class DefaultsHelp(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults that say something: not those of switches, nor of flags whose help says what happens without."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, ()):
            return action.help
        return super()._get_help_string(action)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `deltaconv`; returns the exit code.

    It is 0, 2 for a user's mistake or a full disk, 130 after Ctrl-C, or 143 after SIGTERM.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = _top_parser().parse_args(arguments[:1]).command
    # transformers warns on import of what no subcommand uses
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    module = import_module(f".{command}", __package__)
    parser = argparse.ArgumentParser(
        prog=f"deltaconv {command}",
        description=COMMANDS[command],
        formatter_class=DefaultsHelp,
    )
    module.configure(parser)
    parser.add_argument("--traceback", action="store_true", help="show the whole traceback of an error")
    options = parser.parse_args(arguments[1:])
    try:
        module.run(options)
    except UserError as error:
        if options.traceback:
            raise
        print(f"deltaconv {command}: {_with_dashes(str(error), options)}", file=sys.stderr)
        return USER_MISTAKE
    except KeyboardInterrupt as error:
        print(f"deltaconv {command}: {str(error) or 'interrupted'}", file=sys.stderr)
        return getattr(error, "exit_code", INTERRUPTED)
    except OSError as error:
        if options.traceback or error.errno not in DISK_FAULTS:
            raise
        print(f"deltaconv {command}: {error}", file=sys.stderr)
        return USER_MISTAKE
    return 0


def _with_dashes(message: str, options: argparse.Namespace) -> str:
    """The library's errors begin with the name of a setting, "name: …"; here it is a flag."""
    name = message.partition(":")[0]
    return f"--{message}" if name in vars(options) and name != "data" else message


def _top_parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    listing = "\n".join(f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="deltaconv",
        description="Self-attention of diffusion models, distilled into convolutions (ΔConvFusion, arXiv 2504.21292).",
        epilog=f"commands:\n{listing}\n\n`deltaconv COMMAND --help` shows a command's options.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=_version())
    parser.add_argument("command", choices=tuple(COMMANDS), metavar="COMMAND", help="one of those below")
    return parser


def _version() -> str:
    try:
        return f"deltaconv-kernels {metadata.version('deltaconv-kernels')}"
    except metadata.PackageNotFoundError:
        return "deltaconv-kernels, run from its sources without installation"
