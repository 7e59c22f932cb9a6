"""`python -m depth_core.cli`: the same as `depthline`."""

from depth_core.cli import main

if __name__ == "__main__":
    main("python -m depth_core.cli")
