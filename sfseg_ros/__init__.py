# SPDX-License-Identifier: Apache-2.0
"""Semantic segmentation of camera frames in ROS 2 with SFNet-Lite models."""
