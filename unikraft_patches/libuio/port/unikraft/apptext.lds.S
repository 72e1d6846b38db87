/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Gathers the code of the application (the libraries that CONFIG_LIBUIO_APP_LIBS
 * names; Makefile.uk makes UIO_APP_TEXT of it) in one place, so that
 * preempt.c can tell it from kernel code.
 */
SECTIONS
{
	.text.uio_app :
	{
		uio_app_text = .;
		UIO_APP_TEXT
		uio_app_etext = .;
	}
}
INSERT AFTER .text;
