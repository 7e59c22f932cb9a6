"""`python -m depth_core.cli`: the same as `depthline`."""

from depth_core.cli import app

if __name__ == "__main__":
    app(prog_name="python -m depth_core.cli")
