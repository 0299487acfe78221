# SPDX-License-Identifier: BSD-3-Clause
"""Files of models: one module a format.  Nothing in a file is executed, and nothing is believed unchecked."""
