"""The ROS 2 side: a lifecycle node around `mgcda_core`, and replay against it. Nothing here is imported by the core."""
