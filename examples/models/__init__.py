# SPDX-License-Identifier: BSD-3-Clause
"""Models that packages ship, read and run by fastlstm beside their own programs."""
