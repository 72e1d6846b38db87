# SPDX-License-Identifier: BSD-3-Clause
"""Measurements. Each module measures one subject and yields ratios taken within one run; nothing here is a test."""
