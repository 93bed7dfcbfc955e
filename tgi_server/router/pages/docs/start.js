// Addresses are relative, as a proxy may take a prefix away. Without `null` a foreign host would be asked to validate.
"use strict";

SwaggerUIBundle({
    url: "../api-doc/openapi.json",
    dom_id: "#page",
    deepLinking: true,
    defaultModelExpandDepth: 2,
    displayRequestDuration: true,
    validatorUrl: null,
});
