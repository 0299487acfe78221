# SPDX-License-Identifier: BSD-3-Clause
"""What a layer is made of: its options, the names and shapes of its parameters, their values."""
