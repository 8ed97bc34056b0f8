# SPDX-License-Identifier: Apache-2.0
"""Inference libraries behind one protocol; `choice.open_backend` opens one."""
