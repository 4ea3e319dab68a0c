"""Components shared by the OpenVLA and Octo teachers."""
