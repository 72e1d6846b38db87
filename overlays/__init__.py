# SPDX-License-Identifier: BSD-3-Clause
"""Overlays on the host: build, scan, sign, verify, store and link what runs inside a guest (docs/overlays.md).

Import the submodule you need: `overlays.store` for serving, `overlays.link` for pushing, `overlays.build` for making.
"""
