import tseslint from 'typescript-eslint'

/** What Node and packages keep to themselves changes without notice, in any version. */
const PRIVATE_API = [
  { selector: 'MemberExpression > Identifier.property[name=/^_/], Property > Identifier.key[name=/^_/]', message: 'A name with an underscore in front is private to Node or to a package.' },
  { selector: 'TSPropertySignature > Identifier.key[name=/^_/], Literal[value=/^_(http|stream|tls|debug)/]', message: 'A name with an underscore in front is private to Node or to a package.' },
  { selector: 'MemberExpression > Identifier.property[name=/^(detachSocket|assignSocket|getOwnPropertySymbols|binding)$/]', message: 'It is not documented: Node may change it without notice.' },
]

export default tseslint.config(
  { ignores: ['dist/', 'node_modules/', 'src/contract/types.ts', 'src/pages/'] },
  ...tseslint.configs.strictTypeChecked,
  {
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      '@typescript-eslint/restrict-template-expressions': ['error', { allowNumber: true }],
      '@typescript-eslint/no-confusing-void-expression': 'off',
      '@typescript-eslint/consistent-type-imports': 'error',
      'no-restricted-syntax': ['error', ...PRIVATE_API],
      'no-restricted-imports': ['error', { patterns: [{ regex: '^(?:node:)?_|/(?:lib|dist|build|src|internal)/(?!.*\\.ts$)', message: 'It is the inside of Node or of a package.' }] }],
    },
  },
  { files: ['eslint.config.js'], ...tseslint.configs.disableTypeChecked },
)
