# A thin front for CMake presets and the scripts in tools/. Each target stands alone on a fresh Debian 12 clone:
# tools/deps installs what is missing (root), or shows the one apt line and asks (everyone else).
PREFIX ?= /usr/local

all:
	@tools/deps build
	@test -f build/build.ninja || cmake --preset release >/dev/null
	@cmake --build build --target products

demo: all
	@tools/deps demo
	@tools/demo

check:
	@tools/check

check-full:
	@tools/check --full

bench: all
	@tools/deps bench
	@cmake --build build
	@bench/run
	@bench/fleet
	@bench/serve

fuzz:
	@tools/deps build test
	@tools/fuzz

install: all
	@cmake --install build --prefix $(PREFIX)

clean:
	rm -rf build build-dev build-tsan build-fuzz build-clang build-debug

.PHONY: all demo check check-full bench fuzz install clean
