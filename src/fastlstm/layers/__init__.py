# SPDX-License-Identifier: BSD-3-Clause
"""Layers and cells, a file a family; base.py has what the recurrent ones share."""
