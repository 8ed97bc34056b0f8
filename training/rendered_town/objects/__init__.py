# SPDX-License-Identifier: Apache-2.0
"""The models of a town, as `geometry.Model` values: no Blender here."""
