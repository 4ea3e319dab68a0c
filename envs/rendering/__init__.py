"""Find a Vulkan device or an OpenGL platform to render with."""
