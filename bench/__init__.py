# SPDX-License-Identifier: BSD-3-Clause
"""Measurements. They print ratios taken in one run, and are no tests."""
