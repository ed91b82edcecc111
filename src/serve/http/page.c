// The chat page.
#include "serve/http/http_int.h"

const char page_html[] = "<!doctype html><title>brigade</title>";
